"""Tiny data sets in their official layouts, and the official archives that hold them."""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tcl.datasets.archives import archives_of
from tcl.datasets.benchmark import Benchmark, load, raw_ids

SIZE = (6, 8)
COCO = Path("coco_stuff164k/annotations/val2017")
CITY = Path("cityscapes/gtFine/val/ulm")


def random_labels(values: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array(values, dtype=np.uint8), SIZE)


def add_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)


def add_labels(path: Path, labels: np.ndarray, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels)
    if palette:
        image.putpalette([7 * value % 256 for value in range(768)])
    image.save(path)


def add_split(root: Path, benchmark: Benchmark, names: list[str]) -> None:
    path = root / (benchmark.split or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def make_voc(root: Path, key: str = "voc") -> None:
    benchmark = load(key)
    for index, name in enumerate(("2007_1", "2007_2")):
        add_image(root / benchmark.images / f"{name}.jpg")
        labels = random_labels([*range(benchmark.stored_labels), 255], index)
        add_labels(root / benchmark.labels / f"{name}.png", labels, palette=True)
    add_split(root, benchmark, ["2007_1", "2007_2"])


def make_context(root: Path) -> None:
    make_voc(root, "context")


def make_coco(root: Path) -> None:
    for index, name in enumerate(("000000000139", "000000000285")):
        add_image(root / "coco_stuff164k/images/val2017" / f"{name}.jpg")
        add_labels(root / COCO / f"{name}.png", random_labels([*raw_ids("coco_stuff164k"), 255], index))


def make_cityscapes(root: Path) -> None:
    for index, name in enumerate(("ulm_0", "ulm_1")):
        add_image(root / "cityscapes/leftImg8bit/val/ulm" / f"{name}_leftImg8bit.png")
        add_labels(root / CITY / f"{name}_gtFine_labelIds.png", random_labels(list(range(34)), index))


def make_ade20k(root: Path) -> None:
    benchmark = load("ade20k")
    for index, name in enumerate(("ADE_val_00000001", "ADE_val_00000002")):
        add_image(root / benchmark.images / f"{name}.jpg")
        add_labels(root / benchmark.labels / f"{name}.png", random_labels(list(range(151)), index))


MAKE: dict[str, Callable[[Path], None]] = {
    "voc": make_voc,
    "context": make_context,
    "coco_stuff164k": make_coco,
    "cityscapes": make_cityscapes,
    "ade20k": make_ade20k,
}


def run_length(rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """The run-length mask of a rectangle, as PASCAL Context has it."""
    from pycocotools import mask

    pixels = np.zeros(size, dtype=np.uint8, order="F")
    pixels[rows, columns] = 1
    encoded = mask.encode(pixels)
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def context_annotations() -> dict[str, Any]:
    """trainval_merged.json for the two images of `make_context`: the left half a bag, the rest not annotated."""
    names = {1: "2007_1.jpg", 2: "2007_2.jpg"}
    segment = run_length(slice(None), slice(0, SIZE[1] // 2))
    category = raw_ids("context")[2]
    return {
        "images": [{"image_id": number, "file_name": name, "phase": "val"} for number, name in names.items()],
        "annos_segmentation": [
            {"image_id": number, "category_id": category, "segmentation": segment} for number in names
        ],
    }


def pack(dataset: str, root: Path, folder: Path) -> None:
    """Write the official archives of a data set that lies below `root`, and some more files into each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    for archive in archives_of(dataset):
        path = folder / archive.name
        if not archive.members:
            path.write_text(json.dumps(context_annotations()), encoding="utf-8")
            continue
        base = root / archive.into
        names = (path.relative_to(base).as_posix() for path in sorted(base.rglob("*")))
        wanted = [name for name in names if any(fnmatchcase(name, pattern) for pattern in archive.members)]
        files = {name: (base / name).read_bytes() for name in wanted}
        write_archive(path, {**files, "README.txt": b"of no use here", "train2017/1.png": b"of no use either"})


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    """A tar, or a zip if the name says so."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path
