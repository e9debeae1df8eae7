"""The formats of annotation files: TSV, CSV and parquet, read as rows of an address and a caption.

TSV is what the authors of CC3M and CC12M distribute: quotes mean nothing, and in a file of two columns a caption may
contain tabs. CSV has quotes, and captions of several lines within them. A byte order mark is ignored.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tcl.errors import TCLError

FORMATS = ("tsv", "csv", "parquet")
_ROWS = 100_000


class Columns(NamedTuple):
    """The columns of addresses and captions: by name where the file has a header, else by position, from 0."""

    url: int | str
    caption: int | str


class Row(NamedTuple):
    """One row; bytes that are not UTF-8 are kept as lone surrogates. What is not there is empty."""

    url: str
    caption: str


def read_rows(path: Path, *, format: str, columns: Columns) -> Iterator[Row]:
    """The rows of an annotation file in one of `FORMATS`; blank lines are left out, as is a header.

    Raises TCLError if the file is missing, in another format or encoding, or has no column of a name.
    """
    if not path.is_file():
        raise TCLError(f"{path}: there is no such annotation file. Download it and put it there.")
    return _parquet(path, columns) if format == "parquet" else _text(path, format, columns)


def _text(path: Path, format: str, columns: Columns) -> Iterator[Row]:
    records = _csv(path) if format == "csv" else (line.rstrip("\r\n").split("\t") for line in _lines(path))
    records = (record for record in records if any(record))
    first = next(records, None)
    if first is None:
        return
    url, caption = (_position(path, first, column) for column in columns)
    two_columns = format == "tsv" and (len(first) if isinstance(columns.url, str) else 1 + max(url, caption)) == 2
    for record in records if _is_header(first, columns) else chain([first], records):
        if len(record) <= max(url, caption):
            yield Row("", "\t".join(record))
        elif two_columns and url == 0:
            yield Row(record[0], "\t".join(record[1:]))
        elif two_columns:
            yield Row(record[-1], "\t".join(record[:-1]))
        else:
            yield Row(record[url], record[caption])


def _is_header(first: list[str], columns: Columns) -> bool:
    """Whether the first record holds names; positions tolerate one of the two obvious names, as it is no pair."""
    return isinstance(columns.url, str) or sorted(name.strip().lower() for name in first) == ["caption", "url"]


def _position(path: Path, header: list[str], column: int | str) -> int:
    if isinstance(column, int):
        return column
    names = [name.strip() for name in header]
    if column not in names:
        raise TCLError(f"{path} has no column {column!r}; its first line is {', '.join(map(repr, header[:20]))}.")
    return names.index(column)


def _csv(path: Path) -> Iterator[list[str]]:
    reader = csv.reader(_lines(path))
    while True:
        try:
            yield next(reader)
        except csv.Error as error:
            yield [f"({error})"]
        except StopIteration:
            return


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file with their ends; only \\n and \\r\\n end a line."""
    with open(path, "rb") as file:
        first = file.readline()
        if first.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            raise TCLError(f"{path} is UTF-16, annotation files are UTF-8. Download it again, as it is distributed.")
        for line in chain([first.removeprefix(BOM_UTF8)], file):
            yield line.decode(errors="surrogateescape")


def _parquet(path: Path, columns: Columns) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_schema(path, file.schema_arrow, columns)
            for batch in file.iter_batches(_ROWS, columns=list(columns)):
                url, caption = (batch.column(column).to_pylist() for column in columns)
                yield from (Row(one or "", other or "") for one, other in zip(url, caption, strict=True))
    except pa.ArrowInvalid as error:
        raise TCLError(f"{path} is not a readable parquet file ({error}). Download it again.") from None


def _check_schema(path: Path, schema: Any, columns: Columns) -> None:
    import pyarrow.types as types

    for column in columns:
        if column not in schema.names:
            raise TCLError(f"{path} has no column {column!r}; there are {', '.join(map(repr, schema.names))}.")
        kind = schema.field(column).type
        if not (types.is_string(kind) or types.is_large_string(kind)):
            raise TCLError(f"{path}: column {column!r} holds {kind}, addresses and captions are strings.")
