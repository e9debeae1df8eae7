"""Scenes as five segmentation data sets, in the folders, file names and label values of their publishers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcl.datasets.benchmark import IGNORED, load, raw_ids
from tcl.files import write_json, write_text
from tcl.world.jpeg import write_jpeg
from tcl.world.scene import Scene, Setting
from tcl.world.vocabulary import classes, official

CITIES = ("frankfurt", "lindau", "munster")
SLIVER = 6
"""COCO-Stuff has unlabelled pixels that no annotator marked; here, classes of fewer pixels than this stay unmarked."""


class Record(NamedTuple):
    """A scene that has been written: its split, its name without suffix, and its entries in an annotation list."""

    split: str
    name: str
    annotations: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Layout:
    """One data set: its folder under the benchmark root, what its pictures are like, and how they are written.

    `write(folder, split, number, scene)` writes one scene, `finish(folder, records)` what lists all of them, if
    anything does.
    """

    folder: str
    splits: tuple[str, ...]
    write: Callable[[Path, str, int, Scene], Record]
    finish: Callable[[Path, Sequence[Record]], None] | None = None
    setting: Setting = "any"
    width_to_height: float = 1.0


@cache
def raw_values(dataset: str) -> NDArray[np.int64]:
    """Table [32] from world class index to the value that the official labels of a data set (of `LAYOUTS`) give it.

    A class that the data set lacks becomes background (voc), a category that is not one of the 60 (context),
    unlabelled (coco_stuff164k, cityscapes) or other (ade20k).
    """
    if dataset in ("voc", "ade20k"):
        ids: Sequence[int] = range(dataset == "ade20k", 256)
        absent = 0
    else:
        ids = raw_ids(dataset)
        other_category = next(i for i in count(1) if i not in ids)
        absent = {"context": other_category, "coco_stuff164k": IGNORED, "cityscapes": 0}[dataset]
    benchmark = "coco_stuff" if dataset == "coco_stuff164k" else dataset
    positions = {name: position for position, name in enumerate(load(benchmark).classes)}
    table = np.full(len(classes()), absent)
    for name, index in official(benchmark).items():
        table[index] = ids[positions[name]]
    return table


def _write_voc(folder: Path, split: str, number: int, scene: Scene) -> Record:
    """Pictures as JPEG; labels as palette PNG, with a border of 255 around every object, on its outer side.

    The official border lies on both sides; in pictures this small it would take thin parts whole.
    """
    import cv2

    name = f"{'2011' if split == 'train' else '2012'}_{number + 1:06d}"
    labels = raw_values("voc").astype(np.uint8)[scene.labels]
    labels[cv2.dilate(labels, np.ones((3, 3), np.uint8)) != labels] = IGNORED
    write_jpeg(folder / "JPEGImages" / f"{name}.jpg", scene.image)
    _write_labels(folder / "SegmentationClass" / f"{name}.png", labels, palette=True)
    return Record(split, name)


def _finish_voc(folder: Path, records: Sequence[Record]) -> None:
    """ImageSets/Segmentation/{train,val}.txt, for the splits that have scenes."""
    for split in dict.fromkeys(record.split for record in records):
        names = [record.name for record in records if record.split == split]
        write_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", "".join(f"{name}\n" for name in names))


def _write_context(folder: Path, split: str, number: int, scene: Scene) -> Record:
    """Pictures as JPEG; one run-length encoded mask a class for the merged annotation file."""
    from pycocotools import mask

    name = f"{'2009' if split == 'train' else '2010'}_{number + 1:06d}"
    write_jpeg(folder / "JPEGImages" / f"{name}.jpg", scene.image)
    annotations = []
    for label in np.unique(scene.labels):
        encoded = mask.encode(np.asfortranarray(scene.labels == label).astype(np.uint8))
        segmentation = {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
        category = int(raw_values("context")[label])
        annotations.append({"image_id": _image_id(name), "category_id": category, "segmentation": segmentation})
    return Record(split, name, tuple(annotations))


def _finish_context(folder: Path, records: Sequence[Record]) -> None:
    """trainval_merged.json; the lists of the two splits are made of it by those who prepare the data set."""
    images = [{"image_id": _image_id(r.name), "file_name": f"{r.name}.jpg", "phase": r.split} for r in records]
    annotations = [annotation for record in records for annotation in record.annotations]
    write_json(folder / "trainval_merged.json", {"images": images, "annos_segmentation": annotations})


def _image_id(name: str) -> int:
    return int(name.replace("_", ""))


def _write_coco(folder: Path, split: str, number: int, scene: Scene) -> Record:
    name = f"{number + 1:012d}"
    values = raw_values("coco_stuff164k").astype(np.uint8)
    slivers = np.bincount(scene.labels.ravel(), minlength=len(values)) < SLIVER
    write_jpeg(folder / "images" / "val2017" / f"{name}.jpg", scene.image)
    _write_labels(folder / "annotations" / "val2017" / f"{name}.png", np.where(slivers, IGNORED, values)[scene.labels])
    return Record(split, name)


def _write_cityscapes(folder: Path, split: str, number: int, scene: Scene) -> Record:
    import cv2

    city = CITIES[number % len(CITIES)]
    name = f"{city}_{number // len(CITIES):06d}_000019"
    image = folder / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(cv2.imencode(".png", scene.image[..., ::-1])[1].tobytes())
    labels = raw_values("cityscapes")[scene.labels]
    _write_labels(folder / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", labels)
    return Record(split, name)


def _write_ade(folder: Path, split: str, number: int, scene: Scene) -> Record:
    name = f"ADE_val_{number + 1:08d}"
    write_jpeg(folder / "images" / "validation" / f"{name}.jpg", scene.image)
    _write_labels(folder / "annotations" / "validation" / f"{name}.png", raw_values("ade20k")[scene.labels])
    return Record(split, name)


def _write_labels(path: Path, labels: NDArray[Any], *, palette: bool = False) -> None:
    """Write values 0..255 [H, W] as an 8-bit PNG; with VOC's palette, if asked for."""
    from PIL import Image

    image = Image.fromarray(labels.astype(np.uint8))
    if palette:
        image.putpalette(_voc_palette())
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@cache
def _voc_palette() -> bytes:
    """VOC's colours: bits 0, 3, 6 of an index are the highest bits of its red, 1, 4, 7 of green, 2, 5 of blue."""
    index = np.arange(256)
    channels = [sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
    return np.stack(channels, axis=1).astype(np.uint8).tobytes()


LAYOUTS = {
    "voc": Layout("VOCdevkit/VOC2012", ("train", "val"), _write_voc, _finish_voc),
    "context": Layout("VOCdevkit/VOC2010", ("train", "val"), _write_context, _finish_context),
    "coco_stuff164k": Layout("coco_stuff164k", ("val",), _write_coco),
    "cityscapes": Layout("cityscapes", ("val",), _write_cityscapes, setting="street", width_to_height=1.5),
    "ade20k": Layout("ade/ADEChallengeData2016", ("val",), _write_ade),
}
