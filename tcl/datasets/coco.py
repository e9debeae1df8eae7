"""COCO-Stuff's raw masks to the label maps of COCO-Stuff (171 classes) and COCO-Object (80 things and background)."""

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
    names = {split: _names(folder / split) for split in ("val2017", "train2017")}
    if not names["val2017"]:
        raise TCLError(f"COCO-Stuff: no mask is in {folder / 'val2017'}. {_UNPACK}")
    raw = [folder / split / name for split in names for name in names[split] if not name.endswith("TrainIds.png")]
    both = tables()
    items = [Conversion(path, (_beside(path, STUFF_SUFFIX), _beside(path, OBJECT_SUFFIX)), both) for path in raw]
    advice = "The masks of COCO-Stuff 164k hold ids 0 to 181 and 255. " + _UNPACK
    convert_all(items, workers=workers, title="COCO-Stuff masks", advice=advice)


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.glob("*.png") if not path.name.startswith("."))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name.removesuffix(".png") + suffix + ".png")
