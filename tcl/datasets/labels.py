"""Label maps on disk: 8-bit PNGs of one channel, and their conversion from one set of ids to another."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcl.datasets.parallel import each, refuse
from tcl.errors import TCLError
from tcl.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

LabelMap = NDArray[np.uint8]

_INVALID = 254  # in a table: this id must not occur


@contextmanager
def opened(path: Path) -> Iterator["Image"]:
    """An image opened by PIL, to be decoded within the block.

    Raises:
        TCLError: the file is missing or damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError as error:
        raise TCLError(f"{path}: is missing") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise TCLError(f"{path}: is not a readable image ({error})") from error


def read_labels(path: Path) -> LabelMap:
    """The stored values of a label map, uint8 [H, W]; of a palette PNG the indices.

    Raises:
        TCLError: the file is missing or damaged, or is not an 8-bit image of one channel.
    """
    with opened(path) as image:
        if image.mode not in ("L", "P"):
            raise TCLError(f"{path}: a label map has one channel of 8 bits, this image has mode {image.mode}")
        return np.array(image)


def write_labels(path: Path, labels: LabelMap) -> None:
    """Write a label map, uint8 [H, W], as a PNG of one channel, atomically."""
    import cv2

    encoded, content = cv2.imencode(".png", labels)
    if not encoded:
        raise TCLError(f"{path}: an array of shape {labels.shape} and type {labels.dtype} cannot be written as PNG.")
    with replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())


def conversion_table(ids: Mapping[int, int], *, default: int | None = None) -> LabelMap:
    """A table uint8 [256] from stored value to new value; values not in `ids` become `default`, or are invalid."""
    table = np.full(256, _INVALID if default is None else default, dtype=np.uint8)
    table[list(ids)] = list(ids.values())
    return table


class Conversion(NamedTuple):
    """One label map to convert: each target is written from `source` through its table."""

    source: Path
    targets: tuple[Path, ...]
    tables: tuple[LabelMap, ...]


def convert(item: Conversion) -> str | None:
    """Write the targets that do not exist yet; return what is wrong with the file, if anything.

    Nothing is written if `source` holds an id that one of the tables has no value for. Raises OSError if a target
    cannot be written: the next one could not either.
    """
    import cv2

    try:
        source = read_labels(item.source)
        results = [np.asarray(cv2.LUT(source, table), dtype=np.uint8) for table in item.tables]
        if any((result == _INVALID).any() for result in results):
            return f"{item.source}: holds invalid ids: {_invalid_ids(source, item.tables)}"
        for target, result in zip(item.targets, results, strict=True):
            if not target.exists():
                write_labels(target, result)
    except TCLError as error:
        return str(error) if str(item.source) in str(error) else f"{item.source}: {error}"
    return None


def _invalid_ids(source: LabelMap, tables: Sequence[LabelMap]) -> str:
    return ", ".join(str(value) for value in np.unique(source) if any(table[value] == _INVALID for table in tables))


def convert_all(items: Iterable[Conversion], *, total: int, workers: int, title: str, advice: str) -> None:
    """Convert `total` label maps.

    Raises:
        TCLError: some files could not be converted; all others have been.
    """
    refuse(each(convert, items, total=total, workers=workers, title=title), title=title, advice=advice)
