"""Cityscapes' label ids to the 19 train ids."""

from pathlib import Path

from tcl.datasets.benchmark import IGNORED, raw_ids
from tcl.datasets.labels import Conversion, LabelMap, conversion_table, convert_all
from tcl.errors import TCLError

_FOLDER = Path("cityscapes/gtFine")
_RAW = "_gtFine_labelIds.png"
_TRAIN = "_gtFine_labelTrainIds.png"
_LAST_ID = 33
_UNPACK = "Unpack gtFine_trainvaltest.zip, which cityscapes-dataset.com gives to registered users, in cityscapes/."


def table() -> LabelMap:
    """From label id to class; what Cityscapes does not evaluate is ignored."""
    known = dict.fromkeys((*range(_LAST_ID + 1), IGNORED), IGNORED)
    return conversion_table(known | {raw: index for index, raw in enumerate(raw_ids("cityscapes"))})


def convert(root: Path, *, workers: int) -> None:
    """Write the train ids beside the label ids of the splits val and, if it is there, train.

    Label maps that are there already are left alone, and are enough: the label ids need not be there then.

    Raises:
        TCLError: there is neither kind of label map, or one holds an id that Cityscapes does not have.
    """
    folder = root / _FOLDER
    if not any((folder / "val").glob("*/*_gtFine_label*Ids.png")):
        raise TCLError(f"Cityscapes: no label map is in {folder / 'val'}. {_UNPACK}")
    raw = [path for split in ("val", "train") for path in sorted((folder / split).glob("*/*" + _RAW))]
    pairs = ((path, path.with_name(path.name.removesuffix(_RAW) + _TRAIN)) for path in raw)
    pending = [(path, train) for path, train in pairs if not (path.name.startswith(".") or train.exists())]
    tables = (table(),)
    items = (Conversion(path, (train,), tables) for path, train in pending)
    advice = f"The label ids of Cityscapes go from 0 to {_LAST_ID}. {_UNPACK}"
    convert_all(items, total=len(pending), workers=workers, title="Cityscapes label maps", advice=advice)
