"""What img2dataset says about its shards, and the bookkeeping of a folder in which it may have been interrupted."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from tcl.errors import TCLError
from tcl.pairs.index import BLOCK, index_path

_GENERAL = (
    (re.compile(r"\n.*", re.DOTALL), ""),
    (re.compile(r"OpenCV.*imdecode.*"), "Image decoding error"),
    (re.compile(r"\d+ (bytes|more)"), r"N \1"),
    (re.compile(r"(['\"]).*\1"), "'...'"),
)
"""From img2dataset's reasons to those that are counted: without what differs from image to image, sizes and names."""

REASONS = 20
"""Reasons of failure that are kept apart; the rarer ones are added up."""


class ShardStats(NamedTuple):
    """One finished shard: pairs tried, pairs written, and why the others failed."""

    tried: int
    succeeded: int
    failures: Counter[str]


def read_stats(folder: Path, known: dict[str, ShardStats] | None = None) -> dict[str, ShardStats]:
    """Statistics of every finished shard in `folder`, by the tar's name; half-written ones are left out.

    known: an earlier answer, which need not be read again.
    """
    found = dict(known or {})
    for path in folder.glob("*_stats.json"):
        if _tar(path).name not in found and (stats := _parse(path)) is not None:
            found[_tar(path).name] = stats
    return found


def unfinished_bytes(folder: Path, finished: Collection[str]) -> int:
    """Size of the files of shards that are not in `finished`: it grows as long as img2dataset is alive."""
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if _tar(Path(entry.name)).name not in finished)


def drop_unfinished(folder: Path, *, retry_empty: bool) -> None:
    """Remove what is left of shards that are not whole and, with `retry_empty`, of those in which every pair failed."""
    finished = read_stats(folder)
    paths = [path for pattern in ("*_stats.json", "*.tar", "*.parquet", "*.idx") for path in folder.glob(pattern)]
    for tar in sorted({_tar(path) for path in paths}):
        stats = finished.get(tar.name)
        if stats is None or (retry_empty and stats.succeeded == 0) or not _ends_well(tar):
            drop_shard(tar)


def drop_shard(tar: Path) -> None:
    """Remove one shard and everything that describes it; the statistics first, as they say that it is finished."""
    for path in (tar.with_name(f"{tar.stem}_stats.json"), tar, tar.with_suffix(".parquet"), index_path(tar)):
        path.unlink(missing_ok=True)


def add_up(stats: dict[str, ShardStats]) -> ShardStats:
    """The sum over shards."""
    failures: Counter[str] = Counter()
    for shard in stats.values():
        failures.update(shard.failures)
    return ShardStats(
        sum(shard.tried for shard in stats.values()), sum(shard.succeeded for shard in stats.values()), failures
    )


def top_failures(failures: Counter[str]) -> dict[str, int]:
    """The most frequent reasons with their counts, the rest added up; ties in alphabetical order."""
    ordered = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[REASONS:])
    return dict(ordered[:REASONS]) | ({"other reasons": rest} if rest else {})


def check_samples(folder: Path, samples: dict[str, int], stats: dict[str, ShardStats]) -> None:
    """Remove shards that hold another number of samples than img2dataset says it wrote, and raise TCLError then."""
    wrong = [name for name, count in samples.items() if count != stats[name].succeeded]
    for name in wrong:
        drop_shard(folder / name)
    if wrong:
        raise TCLError(
            f"{', '.join(wrong)} in {folder}: not written whole, perhaps for lack of space, and removed. "
            "Run the download again: the other shards are kept."
        )


def _tar(path: Path) -> Path:
    """The tar that a file of a shard belongs to: `00000_stats.json` -> `00000.tar`."""
    return path.with_name(path.name.removesuffix("_stats.json").partition(".")[0] + ".tar")


def _parse(path: Path) -> ShardStats | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        failures: Counter[str] = Counter()
        for reason, count in value["status_dict"].items():
            failures[_general(reason)] += 0 if reason == "success" else count
        stats = ShardStats(value["count"], value["successes"], +failures)
    except (ValueError, KeyError, FileNotFoundError):
        return None
    if unexplained := stats.tried - stats.succeeded - stats.failures.total():
        stats.failures["lost by img2dataset without a reason"] += unexplained
    return stats


def _general(reason: str) -> str:
    for pattern, replacement in _GENERAL:
        reason = pattern.sub(replacement, reason)
    return reason


def _ends_well(tar: Path) -> bool:
    """Whether the file ends in the two zero blocks that end an archive."""
    try:
        with open(tar, "rb") as file:
            file.seek(-2 * BLOCK, 2)
            return not any(file.read())
    except OSError:
        return False
