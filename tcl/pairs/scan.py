"""Describing the shards of a folder for a manifest: every byte is read once, and what was read is kept in the index."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tcl.errors import TCLError
from tcl.pairs.index import build_index, digest, open_index, write_index
from tcl.pairs.manifest import Shard
from tcl.progress import progress


class Scan(NamedTuple):
    """The shards of a folder, sorted by name, and the samples that are left out of them, by what they lack."""

    shards: tuple[Shard, ...]
    incomplete: Counter[str]


def scan(folder: str | Path, *, threads: int = 4) -> Scan:
    """Describe every `*.tar` in `folder`, and write the index of those that have none.

    A shard whose index is as new as it is not read again, so an interrupted scan is continued. Progress is shown.
    Raises TCLError that names every shard which is truncated, damaged or not in webdataset form.
    """
    tars = sorted(Path(folder).glob("*.tar"))
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(_scan_shard, tars)
        results = list(progress(found, title=f"{Path(folder).name}: reading", unit="shard", total=len(tars)))
    if problems := [str(result) for result in results if isinstance(result, TCLError)]:
        raise TCLError("\n".join(problems))
    scans = [result for result in results if isinstance(result, Scan)]
    return Scan(tuple(each.shards[0] for each in scans), sum((each.incomplete for each in scans), Counter()))


def _scan_shard(tar: Path) -> Scan | TCLError:
    try:
        index = open_index(tar) or build_index(tar)
    except TCLError as error:
        return error
    sha256 = index.sha256 or digest(tar, index.rows)
    if index.sha256 is None:
        write_index(tar, index._replace(sha256=sha256))
    return Scan((Shard(tar.name, tar.stat().st_size, len(index.rows), sha256),), index.incomplete)
