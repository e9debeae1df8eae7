"""COCO-Stuff's raw masks to the label maps of COCO-Stuff (171 classes) and COCO-Object (80 things and background)."""

import os
from pathlib import Path

from tcl.datasets.benchmark import IGNORED, raw_ids
from tcl.datasets.labels import Conversion, LabelMap, conversion_table, convert_all
from tcl.errors import TCLError

STUFF_SUFFIX = "_labelTrainIds"
OBJECT_SUFFIX = "_instanceTrainIds"

_THINGS = 80
_FOLDER = Path("coco_stuff164k/annotations")
_UNPACK = "Unpack COCO-Stuff's stuffthingmaps_trainval2017.zip there, so that the masks lie in val2017/*.png."


def tables() -> tuple[LabelMap, LabelMap]:
    """From raw id to class of COCO-Stuff (unlabelled is ignored) and of COCO-Object (unlabelled is background)."""
    ids = raw_ids("coco_stuff164k")
    stuff = {raw: index for index, raw in enumerate(ids)}
    things = {raw: index + 1 if index < _THINGS else 0 for index, raw in enumerate(ids)}
    return conversion_table({**stuff, IGNORED: IGNORED}), conversion_table({**things, IGNORED: 0})


def convert(root: Path, *, workers: int) -> None:
    """Write both label maps beside every raw mask of val2017, and of train2017 if it is there.

    Label maps that are there already are left alone, and are enough: the raw masks need not be there then.

    Raises:
        TCLError: there is neither a raw mask nor a label map, or a mask holds an id that COCO-Stuff does not have.
    """
    folder = root / _FOLDER
    if not _names(folder / "val2017"):
        raise TCLError(f"COCO-Stuff: no mask is in {folder / 'val2017'}. {_UNPACK}")
    pending = [(split, stem) for split in ("val2017", "train2017") for stem in _pending(folder / split)]
    both = tables()
    items = (_conversion(folder / split, stem, both) for split, stem in pending)
    advice = "The masks of COCO-Stuff 164k hold ids 0 to 181 and 255. " + _UNPACK
    convert_all(items, total=len(pending), workers=workers, title="COCO-Stuff masks", advice=advice)


def _names(folder: Path) -> set[str]:
    """The names of the label maps in a folder, without the suffix: strings, as there are 123,287 masks and more."""
    if not folder.is_dir():
        return set()
    names = os.listdir(folder)
    return {name.removesuffix(".png") for name in names if name.endswith(".png") and not name.startswith(".")}


def _pending(folder: Path) -> list[str]:
    """The raw masks of a folder that lack one of their two label maps."""
    names = _names(folder)
    raw = (name for name in names if not name.endswith((STUFF_SUFFIX, OBJECT_SUFFIX)))
    return sorted(name for name in raw if not names.issuperset((name + STUFF_SUFFIX, name + OBJECT_SUFFIX)))


def _conversion(folder: Path, stem: str, both: tuple[LabelMap, LabelMap]) -> Conversion:
    targets = (folder / f"{stem}{STUFF_SUFFIX}.png", folder / f"{stem}{OBJECT_SUFFIX}.png")
    return Conversion(folder / f"{stem}.png", targets, both)
