"""Annotation files: lists of captions and image addresses, taken as their authors distribute them, and checked."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tcl.errors import TCLError
from tcl.files import replacing
from tcl.pairs.tables import Columns, Row, read_rows

MAX_MALFORMED = 0.01
"""Largest share of rows that are no pair at which the file is still taken for what its columns say."""

NO_URL, NO_CAPTION, NOT_UTF8 = (f"annotation file: {fault}" for fault in ("no URL", "no caption", "not UTF-8"))
"""Reasons under which rows of the annotation file that are no pair are counted as failures."""

_URL = re.compile(r"https?://\S+", re.IGNORECASE)
_RELATIVE = re.compile(r"[^\s:/][^\s:]*")
_ROWS = 100_000


@dataclass(frozen=True)
class Listing:
    """What an annotation file holds: pairs, rows that are none by reason, and repetitions, which are kept."""

    pairs: int
    malformed: Counter[str]
    repeated_urls: int
    repeated_pairs: int

    def counts(self) -> dict[str, int]:
        """The same as plain numbers, for the manifest."""
        repeated = {"repeated_urls": self.repeated_urls, "repeated_pairs": self.repeated_pairs}
        return {"pairs": self.pairs, **repeated, **dict(sorted(self.malformed.items()))}

    def __str__(self) -> str:
        faults = "".join(f", {count:,} x {reason}" for reason, count in self.malformed.most_common())
        repeated = f"{self.repeated_urls:,} with a URL that is there before, {self.repeated_pairs:,} also its caption"
        return f"{self.pairs:,} pairs{f', {repeated}' if self.repeated_urls else ''}{faults}"


def write_url_list(
    path: Path, annotations: Path, *, columns: Columns, format: str = "tsv", address: str | None = None
) -> Listing:
    """Check `annotations` and write its pairs as parquet with the columns `url` and `caption`, atomically.

    address: put before the URLs, which then have to be relative. Takes 16 bytes of memory a pair.
    Raises TCLError if the file is missing or empty, or if URLs and captions are not where `columns` says.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("url", pa.string()), ("caption", pa.string())])
    check = _Check(_URL if address is None else _RELATIVE)
    rows = check.pairs_of(read_rows(annotations, format=format, columns=columns))
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, schema) as writer:
            while chunk := list(islice(rows, _ROWS)):
                urls = [(address or "") + row.url for row in chunk]
                writer.write_table(pa.table([urls, [row.caption for row in chunk]], schema=schema))
        check.finish(annotations, columns)
    return Listing(len(check.urls), check.malformed, _repeated(check.urls), _repeated(check.pairs))


class _Check:
    """Goes through the rows of a file once and keeps count of what is wrong with them."""

    def __init__(self, url: re.Pattern[str]) -> None:
        self.url = url
        self.malformed: Counter[str] = Counter()
        self.swapped = 0
        self.first = ""
        self.urls, self.pairs = array("q"), array("q")  # hashes: as many strings would take gigabytes

    def pairs_of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The rows that are pairs, stripped; the others are counted."""
        for number, raw in enumerate(rows, start=1):
            row = Row(raw.url.strip(), raw.caption.strip())
            if fault := self._fault(row):
                self.malformed[fault] += 1
                self.swapped += any(map(self.url.fullmatch, row.caption.split("\t")))
                self.first = self.first or f"row {number}: {row.url[:120]!r} as the URL of {row.caption[:120]!r}"
                continue
            self.urls.append(hash(row.url))
            self.pairs.append(hash(row))
            yield row

    def _fault(self, row: Row) -> str | None:
        if not (_is_text(row.url) and _is_text(row.caption)):
            return NOT_UTF8
        if not self.url.fullmatch(row.url):
            return NO_URL
        return None if row.caption else NO_CAPTION

    def finish(self, path: Path, columns: Columns) -> None:
        """Raise TCLError if the file does not hold what its columns say."""
        malformed = self.malformed.total()
        rows = len(self.urls) + malformed
        if rows == 0:
            raise TCLError(f"{path} is empty: it has to list image URLs and captions. Download it again.")
        if malformed <= MAX_MALFORMED * rows:
            return
        faults = ", ".join(f"{count} x {reason}" for reason, count in self.malformed.most_common())
        message = f"{path}: {malformed} of {rows} rows are no pair ({faults})"
        if self.swapped > malformed / 2:
            right = f"{{url: {columns.caption}, caption: {columns.url}}}"
            message += f"; the columns are the other way round: set this source's columns to {right}"
        raise TCLError(f"{message}. The first is {self.first}. Nothing was downloaded.")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate stands for a byte that is not UTF-8
        return False
    return True


def _repeated(hashes: array[int]) -> int:
    import numpy as np

    return len(hashes) - len(np.unique(np.frombuffer(hashes, dtype=np.int64)))
