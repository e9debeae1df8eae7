"""The manifest: what a download of pairs brought, and the contract against which training checks its shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tcl.errors import TCLError
from tcl.files import write_json
from tcl.pairs.index import build_index, digest, write_index


class Shard(NamedTuple):
    """One tar: file name, size in bytes, number of samples, and the hash of those (`tcl.pairs.index.digest`)."""

    name: str
    bytes: int
    samples: int
    sha256: str


class Counts(NamedTuple):
    """How many pairs the annotation file lists, how many were downloaded, and why the others were not."""

    listed: int
    succeeded: int
    failures: Mapping[str, int]


@dataclass(frozen=True)
class Manifest:
    """The shards of one source, sorted by name, and how they came about."""

    source: str
    annotations_sha256: str
    counts: Counts
    shards: tuple[Shard, ...]

    @property
    def samples(self) -> int:
        """Number of pairs in all shards."""
        return sum(shard.samples for shard in self.shards)


def write_manifest(path: str | Path, manifest: Manifest) -> None:
    """Write `manifest` as JSON, atomically; equal manifests give equal bytes."""
    counts = manifest.counts
    failures = dict(sorted(counts.failures.items(), key=lambda item: (-item[1], item[0])))
    value = {
        "source": manifest.source,
        "annotations_sha256": manifest.annotations_sha256,
        "counts": {"listed": counts.listed, "succeeded": counts.succeeded, "failures": failures},
        "shards": [shard._asdict() for shard in sorted(manifest.shards)],
    }
    write_json(path, value)


def read_manifest(path: str | Path) -> Manifest:
    """Read what `write_manifest` wrote. Raises TCLError if the file is missing or is not a manifest."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TCLError(f"{path}: there is no such manifest. Downloading the pairs writes it.") from None
    except ValueError as error:
        raise TCLError(f"{path} is not JSON ({error}). Download the pairs again: finished shards are kept.") from None
    try:
        return _parse(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TCLError(f"{path} is not a manifest of image-text pairs: {type(error).__name__} {error}.") from None


def _parse(value: Any) -> Manifest:
    counts = value["counts"]
    failures = {str(reason): int(count) for reason, count in counts["failures"].items()}
    return Manifest(
        source=str(value["source"]),
        annotations_sha256=str(value["annotations_sha256"]),
        counts=Counts(int(counts["listed"]), int(counts["succeeded"]), failures),
        shards=tuple(
            Shard(str(shard["name"]), int(shard["bytes"]), int(shard["samples"]), str(shard["sha256"]))
            for shard in value["shards"]
        ),
    )


def scan(folder: str | Path, *, threads: int = 4) -> tuple[Shard, ...]:
    """Read every `*.tar` in `folder`, write its index anew, and describe it; sorted by name.

    Raises TCLError naming the first shard that is truncated or damaged. Reads all bytes: bounded by the disk.
    """
    with ThreadPoolExecutor(threads) as pool:
        return tuple(pool.map(_scan_shard, sorted(Path(folder).glob("*.tar"))))


def _scan_shard(tar: Path) -> Shard:
    rows = build_index(tar)
    write_index(tar, rows)
    return Shard(tar.name, tar.stat().st_size, len(rows), digest(tar, rows))


def verify(manifest: Manifest, folder: str | Path, *, hashes: bool) -> None:
    """Compare the shards in `folder` with `manifest`: names and sizes, and with `hashes` every byte of every sample.

    Raises one TCLError that lists every shard that is missing, of another size, damaged, changed or foreign.
    """
    folder = Path(folder)
    problems = [problem for shard in manifest.shards if (problem := _problem(shard, folder, hashes=hashes))]
    known = {shard.name for shard in manifest.shards}
    foreign = sorted(tar.name for tar in folder.glob("*.tar") if tar.name not in known)
    problems += [f"{name}: is not in the manifest; move it elsewhere or scan the folder again" for name in foreign]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise TCLError(
            f"{len(problems)} shards of {manifest.source!r} in {folder} do not agree with the manifest:\n{lines}\n"
            f"Delete the shards that are wrong and download {manifest.source!r} again: the others are kept."
        )


def _problem(shard: Shard, folder: Path, *, hashes: bool) -> str | None:
    tar = folder / shard.name
    if not tar.is_file():
        return f"{shard.name}: is missing"
    if (size := tar.stat().st_size) != shard.bytes:
        return f"{shard.name}: has {size} bytes, {shard.bytes} are expected"
    if not hashes:
        return None
    try:
        rows = build_index(tar)
    except TCLError as error:
        return f"{shard.name}: {error}"
    if len(rows) != shard.samples:
        return f"{shard.name}: has {len(rows)} samples, {shard.samples} are expected"
    return None if digest(tar, rows) == shard.sha256 else f"{shard.name}: its samples have another hash"
