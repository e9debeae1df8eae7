"""PASCAL Context's merged annotation file to label maps of 60 classes and the lists of the two splits."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tcl.datasets.benchmark import raw_ids
from tcl.datasets.labels import LabelMap, opened, write_labels
from tcl.datasets.parallel import each, refuse
from tcl.errors import TCLError
from tcl.files import write_text

_FOLDER = Path("VOCdevkit/VOC2010")
_ANNOTATIONS = "trainval_merged.json"
_PHASES = ("train", "val")
_ADVICE = f"Fetch {_ANNOTATIONS} of PASCAL Context again and unpack the images of VOC2010 beside it."

Segment = tuple[int, dict[str, Any]]


class Annotated(NamedTuple):
    """One image of the annotation file: its segments as (category id, COCO run-length mask), in the file's order."""

    image: Path
    labels: Path
    segments: tuple[Segment, ...]


def convert(root: Path, *, workers: int) -> None:
    """Write `SegmentationClassContext/*.png` and `ImageSets/SegmentationContext/{train,val}.txt` under VOC2010.

    What is there already is left alone. Label maps and a list of the validation split from elsewhere are enough: the
    annotation file need not be there then.

    Raises:
        TCLError: the annotation file is needed and missing, or not in the expected format, or a mask is not sound.
    """
    folder = root / _FOLDER
    source = folder / _ANNOTATIONS
    if _finished(folder, _PHASES if source.is_file() else ("val",)):
        return
    if not source.is_file():
        if _list_of(folder, "val").is_file():
            return  # the verification names the label maps that are missing
        raise TCLError(f"PASCAL Context: {source} is missing. {_ADVICE}")
    names, images = _read(source)
    pending = [image for image in images if not image.labels.exists()]
    title = "PASCAL Context masks"
    refuse(each(draw, pending, workers=workers, title=title), title=title, advice=_ADVICE)
    for phase in _PHASES:
        if not _list_of(folder, phase).exists():
            write_text(_list_of(folder, phase), "".join(f"{name}\n" for name in names[phase]))


def draw(item: Annotated) -> str | None:
    """Write the label map of one image; return what is wrong with it, if anything.

    A later segment covers an earlier one; pixels without a segment, or with one of another category, are background.
    """
    try:
        write_labels(item.labels, _drawn(item))
    except (TCLError, OSError, KeyError, TypeError, ValueError) as error:
        return f"{item.image.name}: {error}"
    return None


def _drawn(item: Annotated) -> LabelMap:
    from pycocotools import mask

    classes = {raw: index for index, raw in enumerate(raw_ids("context"))}
    sizes = {tuple(segment["size"]) for _, segment in item.segments} or {_size(item.image)}
    if len(sizes) > 1:
        raise TCLError(f"its segments differ in size: {sorted(sizes)}")
    labels = np.zeros(sizes.pop(), dtype=np.uint8)
    for category, segment in item.segments:
        labels[mask.decode(segment).astype(bool)] = classes.get(category, 0)
    return labels


def _size(image: Path) -> tuple[int, int]:
    with opened(image) as header:
        return header.height, header.width


def _read(source: Path) -> tuple[dict[str, list[str]], list[Annotated]]:
    """The names of the images of each phase, and all of them with their segments."""
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        segments: dict[Any, list[Segment]] = defaultdict(list)
        for annotation in content["annos_segmentation"]:
            segments[annotation["image_id"]].append((annotation["category_id"], annotation["segmentation"]))
        names: dict[str, list[str]] = {phase: [] for phase in _PHASES}
        images = []
        for image in content["images"]:
            if image["phase"] in names:  # the third phase, test, is not used
                names[image["phase"]].append(Path(image["file_name"]).stem)
                images.append(_annotated(source.parent, image["file_name"], segments[image["image_id"]]))
    except (KeyError, TypeError, ValueError) as error:
        raise TCLError(f"{source}: not in the format of PASCAL Context ({error!r}). {_ADVICE}") from error
    return names, images


def _annotated(folder: Path, file_name: str, segments: list[Segment]) -> Annotated:
    labels = folder / "SegmentationClassContext" / f"{Path(file_name).stem}.png"
    return Annotated(folder / "JPEGImages" / file_name, labels, tuple(segments))


def _list_of(folder: Path, phase: str) -> Path:
    return folder / "ImageSets" / "SegmentationContext" / f"{phase}.txt"


def _finished(folder: Path, phases: tuple[str, ...]) -> bool:
    lists = [_list_of(folder, phase) for phase in phases]
    if not all(path.is_file() for path in lists):
        return False
    names = [name for path in lists for name in path.read_text(encoding="utf-8").split()]
    return all((folder / "SegmentationClassContext" / f"{name}.png").is_file() for name in names)
