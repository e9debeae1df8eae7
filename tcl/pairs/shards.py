"""Random access to the pairs of one source."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from tcl.errors import TCLError
from tcl.pairs.index import Rows, build_index, open_index, write_index
from tcl.pairs.manifest import Manifest

OPEN_SHARDS = 64
"""Shards that one reader keeps open: two file descriptors each, far below the usual limit of 1,024."""


class Pair(NamedTuple):
    """One sample: its key within the source, the encoded image, and the caption."""

    key: str
    image: bytes
    caption: str


class _OpenShard(NamedTuple):
    file: int
    rows: Rows


class PairReader:
    """The pairs of one source by number, 0 to len() - 1, in the order of shard names and then of keys.

    Nothing is opened before the first `read`, and then only the shards that are asked for. May be pickled or forked
    into worker processes: each opens its own, and `os.pread` shares no position. Not for several threads at once.
    """

    def __init__(self, folder: str | Path, manifest: Manifest) -> None:
        self.folder = Path(folder)
        self.source = manifest.source
        self.shards = manifest.shards
        self._ends = list(accumulate(shard.samples for shard in self.shards))
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Number of samples of each shard."""
        return tuple(shard.samples for shard in self.shards)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, i: int) -> Pair:
        """Sample `i`. Raises TCLError if its shard is not what the manifest says, IndexError beyond len()."""
        if not 0 <= i < len(self):
            raise IndexError(f"{self.source} has the pairs 0 to {len(self) - 1}, not {i}")
        number = bisect_right(self._ends, i)
        shard = self._shard(number)
        row = shard.rows[i - self._ends[number]]  # counted from the shard's end
        caption = self._bytes(shard, row["caption"], number).decode("utf-8", "replace")
        return Pair(row["key"].decode("utf-8", "replace"), self._bytes(shard, row["image"], number), caption)

    def close(self) -> None:
        """Close all shards; a later `read` opens them again."""
        while self._open:
            os.close(self._open.popitem()[1].file)

    def _bytes(self, shard: _OpenShard, extent: Any, number: int) -> bytes:
        start, length = int(extent[0]), int(extent[1])
        data = os.pread(shard.file, length, start)
        if len(data) != length:
            raise TCLError(f"{self.folder / self.shards[number].name}: ended at byte {start + len(data)} while in use.")
        return data

    def _shard(self, number: int) -> _OpenShard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while len(self._open) >= OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1].file)
        self._open[number] = self._open_shard(number)
        return self._open[number]

    def _open_shard(self, number: int) -> _OpenShard:
        expected = self.shards[number]
        tar = self.folder / expected.name
        rows = _index(tar, expected.bytes)
        if len(rows) != expected.samples:
            raise TCLError(f"{tar} has {len(rows)} samples, {expected.samples} are expected; verify the shards.")
        return _OpenShard(os.open(tar, os.O_RDONLY), rows)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()


def _index(tar: Path, expected_bytes: int) -> Rows:
    """The index of `tar`, made anew if it is missing or stale; the tar must have the size that the manifest says."""
    try:
        size = tar.stat().st_size
    except FileNotFoundError:
        raise TCLError(f"{tar} is missing; download the pairs again: the other shards are kept.") from None
    if size != expected_bytes:
        raise TCLError(f"{tar} has {size} bytes, {expected_bytes} are expected; verify the shards.")
    if (index := open_index(tar)) is None:
        index = build_index(tar)
        with suppress(OSError):  # a data root that may only be read: the index then lives in memory
            write_index(tar, index)
    return index.rows
