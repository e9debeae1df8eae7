"""Annotation files: lists of captions and image URLs, as their authors distribute them.

A line is one pair, its two columns parted by a tab, without a header (Train_GCC-training.tsv: caption, url;
cc12m.tsv: url, caption). Quotes mean nothing, a caption may contain tabs, a byte order mark is ignored, and so is a
first line that is nothing but the two column names.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tcl.errors import TCLError
from tcl.files import replacing

MALFORMED = "malformed line of the annotation file"
"""The reason under which lines without URL or caption are counted as failures."""

MAX_MALFORMED = 0.01
"""Largest share of malformed lines at which the file is still taken for what its columns say."""

_URL = re.compile(r"https?://\S+")
_RELATIVE = re.compile(r"[^\s:/][^\s:]*")
_ROWS = 100_000


class Row(NamedTuple):
    """One pair of an annotation file."""

    url: str
    caption: str


class Listing(NamedTuple):
    """How many lines a file has that are pairs, and how many that are not."""

    pairs: int
    malformed: int


def write_url_list(path: Path, annotations: Path, *, columns: tuple[str, str], address: str | None = None) -> Listing:
    """Check `annotations` and write its pairs as parquet with the columns `url` and `caption`, atomically.

    columns: ("caption", "url") or ("url", "caption"). address: put before the URLs, which then have to be relative.
    Raises TCLError if the file is missing, empty or not UTF-8, or if URLs are not where `columns` says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    is_url = (_URL if address is None else _RELATIVE).fullmatch
    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    with replacing(path) as temporary:
        check = _Check(annotations, columns, is_url)
        with pq.ParquetWriter(temporary, schema) as writer:
            for rows in _chunks(check.rows()):
                urls = [(address or "") + row.url for row in rows]
                writer.write_table(pa.table([urls, [row.caption for row in rows]], schema=schema))
        check.finish()
    return Listing(check.pairs, check.malformed)


class _Check:
    """Goes through an annotation file once and keeps count of what is wrong with it."""

    def __init__(self, path: Path, columns: tuple[str, str], is_url: Callable[[str], object]) -> None:
        self.path, self.columns, self.is_url = path, columns, is_url
        self.pairs = self.malformed = self.swapped = 0
        self.first = ""

    def rows(self) -> Iterator[Row]:
        """The pairs of the file; what is no pair is counted."""
        url_first = self.columns[0] == "url"
        for number, line in enumerate(_lines(self.path), start=1):
            row = _split(line, url_first=url_first)
            if number == 1 and {row.url, row.caption} == {"url", "caption"}:
                continue
            if row.caption and self.is_url(row.url):
                self.pairs += 1
                yield row
            else:
                self.malformed += 1
                self.swapped += self.is_url(_split(line, url_first=not url_first).url) is not None
                self.first = self.first or f"line {number}: {line[:120]!r}"

    def finish(self) -> None:
        """Raise TCLError if the file does not hold what its columns say."""
        lines = self.pairs + self.malformed
        if lines == 0:
            raise TCLError(f"{self.path} is empty: it has to list image URLs and captions. Download it again.")
        if self.malformed <= MAX_MALFORMED * lines:
            return
        order = " and ".join(self.columns)
        message = f"{self.path}: {self.malformed} of {lines} lines are not {order}, parted by a tab"
        if self.swapped > self.malformed / 2:
            swapped = ", ".join(reversed(self.columns))
            message += f"; the columns are the other way round: set this source's columns to [{swapped}]"
        raise TCLError(f"{message}. The first is {self.first}. Nothing was downloaded.")


def _lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, without their ends; only \\n and \\r\\n end a line."""
    if not path.is_file():
        raise TCLError(f"{path}: there is no such annotation file. Download it and put it there.")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield (line.removeprefix(BOM_UTF8) if number == 1 else line).decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise TCLError(f"{path}: line {number} is not UTF-8 ({error.reason}). Download it again.") from None


def _split(line: str, *, url_first: bool) -> Row:
    """The two columns of a line; tabs beyond the one that parts them belong to the caption."""
    if url_first:
        url, _, caption = line.partition("\t")
    else:
        caption, _, url = line.rpartition("\t")
    return Row(url.strip(), caption.strip())


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == _ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
