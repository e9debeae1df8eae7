"""PASCAL Context's merged annotation file to label maps of 60 classes and the lists of the two splits."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tcl.datasets.benchmark import raw_ids
from tcl.datasets.json_arrays import elements, read_element
from tcl.datasets.labels import LabelMap, opened, write_labels
from tcl.datasets.parallel import each, refuse
from tcl.errors import TCLError
from tcl.files import write_text

_FOLDER = Path("VOCdevkit/VOC2010")
_ANNOTATIONS = "trainval_merged.json"
_PHASES = ("train", "val")
_ADVICE = f"Fetch {_ANNOTATIONS} of PASCAL Context again and unpack the images of VOC2010 beside it."


class Annotated(NamedTuple):
    """One image of the annotation file, and where the bytes of its segments are there, in the file's order."""

    image: Path
    labels: Path
    source: Path
    segments: tuple[tuple[int, int], ...]


class Listed(NamedTuple):
    """One image of the annotation file: its id, file name and phase."""

    id: Any
    name: str
    phase: str


class Annotations(NamedTuple):
    """What the annotation file says, its segments by image as pairs of first byte and length."""

    images: list[Listed]
    segments: dict[Any, array[int]]


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
    annotations = _read(source)
    pending = [image for image in annotations.images if not _labels_of(folder, image.name).exists()]
    items = (_annotated(source, image, annotations.segments) for image in pending)
    title = "PASCAL Context masks"
    refuse(each(draw, items, total=len(pending), workers=workers, title=title), title=title, advice=_ADVICE)
    for phase in _PHASES:
        if not _list_of(folder, phase).exists():
            names = [Path(image.name).stem for image in annotations.images if image.phase == phase]
            write_text(_list_of(folder, phase), "".join(f"{name}\n" for name in names))


def draw(item: Annotated) -> str | None:
    """Write the label map of one image; return what is wrong with it, if anything.

    A later segment covers an earlier one; pixels without a segment, or with one of another category, are background.
    Raises OSError if the label map cannot be written: the next one could not either.
    """
    try:
        labels = _drawn(item)
    except (TCLError, KeyError, TypeError, ValueError) as error:
        return f"{item.image.name}: {error}"
    write_labels(item.labels, labels)
    return None


def _drawn(item: Annotated) -> LabelMap:
    from pycocotools import mask

    classes = {raw: index for index, raw in enumerate(raw_ids("context"))}
    with open(item.source, "rb") as file:
        annotations = [read_element(file, *extent) for extent in item.segments]
    segments = [(annotation["category_id"], annotation["segmentation"]) for annotation in annotations]
    sizes = {tuple(segment["size"]) for _, segment in segments} or {_size(item.image)}
    if len(sizes) > 1:
        raise TCLError(f"its segments differ in size: {sorted(sizes)}")
    labels = np.zeros(sizes.pop(), dtype=np.uint8)
    for category, segment in segments:
        labels[mask.decode(segment).astype(bool)] = classes.get(category, 0)
    return labels


def _size(image: Path) -> tuple[int, int]:
    with opened(image) as header:
        return header.height, header.width


def _read(source: Path) -> Annotations:
    """The images of the two phases, and the places of all segments; the file itself may be larger than the memory."""
    found = Annotations([], {})
    missing = {"images", "annos_segmentation"}
    try:
        for element in elements(source):
            missing.discard(element.key)
            value = element.value
            if element.key == "images" and value["phase"] in _PHASES:  # the third phase, test, is not used
                found.images.append(Listed(value["image_id"], Path(value["file_name"]).name, value["phase"]))
            elif element.key == "annos_segmentation":
                places = found.segments.setdefault(value["image_id"], array("q"))
                places.extend((element.start, element.length))
    except (KeyError, TypeError, ValueError) as error:
        raise TCLError(f"{source}: not in the format of PASCAL Context ({error!r}). {_ADVICE}") from error
    if missing:
        raise TCLError(
            f"{source}: not in the format of PASCAL Context (no {' and no '.join(sorted(missing))}). {_ADVICE}"
        )
    return found


def _annotated(source: Path, image: Listed, segments: dict[Any, array[int]]) -> Annotated:
    folder, places = source.parent, segments.get(image.id, ())
    extents = tuple(zip(places[::2], places[1::2], strict=True))
    return Annotated(folder / "JPEGImages" / image.name, _labels_of(folder, image.name), source, extents)


def _labels_of(folder: Path, file_name: str) -> Path:
    return folder / "SegmentationClassContext" / f"{Path(file_name).stem}.png"


def _list_of(folder: Path, phase: str) -> Path:
    return folder / "ImageSets" / "SegmentationContext" / f"{phase}.txt"


def _finished(folder: Path, phases: tuple[str, ...]) -> bool:
    lists = [_list_of(folder, phase) for phase in phases]
    if not all(path.is_file() for path in lists):
        return False
    names = [name for path in lists for name in path.read_text(encoding="utf-8").split()]
    return all((folder / "SegmentationClassContext" / f"{name}.png").is_file() for name in names)
