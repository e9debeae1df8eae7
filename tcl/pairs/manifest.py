"""The manifest: what a download of pairs brought, and the contract against which training checks its shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tcl.errors import TCLError
from tcl.files import write_json
from tcl.pairs.index import build_index, digest, open_index
from tcl.progress import progress

_THREADS = 8


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

    @property
    def success_ratio(self) -> float:
        """Share of the listed pairs that arrived."""
        return self.succeeded / self.listed if self.listed else 0.0


@dataclass(frozen=True)
class Manifest:
    """The shards of one source, sorted by name, and how they came about.

    annotations_sha256: of the annotation file, None if the shards come from elsewhere. annotations: what that file was
    found to hold, counted. restore: the command that brings the shards back where only the manifest is left.
    """

    source: str
    annotations_sha256: str | None
    counts: Counts
    shards: tuple[Shard, ...]
    annotations: Mapping[str, int] = field(default_factory=dict)
    restore: str = ""

    @property
    def samples(self) -> int:
        """Number of pairs in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)


def write_manifest(path: str | Path, manifest: Manifest) -> None:
    """Write `manifest` as JSON, atomically; equal manifests give equal bytes."""
    counts = manifest.counts
    failures = dict(sorted(counts.failures.items(), key=lambda item: (-item[1], item[0])))
    value = {
        "source": manifest.source,
        "restore": manifest.restore,
        "annotations_sha256": manifest.annotations_sha256,
        "annotations": dict(manifest.annotations),
        "counts": {
            "listed": counts.listed,
            "succeeded": counts.succeeded,
            "success_ratio": round(counts.success_ratio, 6),
            "failures": failures,
        },
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
        told = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise TCLError(
            f"{path} is not a manifest of image-text pairs ({told}). Download them again: finished shards are kept."
        ) from None


def _parse(value: Any) -> Manifest:
    counts = value["counts"]
    annotations = value["annotations_sha256"]
    return Manifest(
        source=str(value["source"]),
        annotations_sha256=None if annotations is None else str(annotations),
        counts=Counts(int(counts["listed"]), int(counts["succeeded"]), _integers(counts["failures"])),
        shards=tuple(
            Shard(str(shard["name"]), int(shard["bytes"]), int(shard["samples"]), str(shard["sha256"]))
            for shard in value["shards"]
        ),
        annotations=_integers(value["annotations"]),
        restore=str(value["restore"]),
    )


def _integers(value: Mapping[Any, Any]) -> dict[str, int]:
    return {str(key): int(count) for key, count in value.items()}


def verify(manifest: Manifest, folder: str | Path, *, hashes: bool) -> None:
    """Compare the shards in `folder` with `manifest`: names, sizes and counts, and with `hashes` every sample's bytes.

    Counts are those of the indexes; a shard without one is counted when it is opened. With `hashes` all bytes are read,
    and progress is shown. Raises one TCLError that lists every shard that is missing, of another size or number of
    samples, damaged, changed or foreign, and says how to get it back.
    """
    folder = Path(folder)
    problems = find_problems(manifest, folder, hashes=hashes)
    if not problems:
        return
    lines = "\n".join(f"  {problem}" for problem in problems)
    again = f"run `{manifest.restore}`" if manifest.restore else f"download {manifest.source!r} again"
    raise TCLError(
        f"{len(problems)} shards of {manifest.source!r} in {folder} do not agree with the manifest:\n{lines}\n"
        f"To get them back, delete those that are wrong and {again}: the others are kept."
    )


def find_problems(manifest: Manifest, folder: Path, *, hashes: bool) -> list[str]:
    """What `verify` would raise, a line for each shard."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda shard: _problem(shard, folder, hashes=hashes), manifest.shards)
        bar = progress(found, title=manifest.source, unit="shard", total=len(manifest.shards), shown=hashes)
        problems = [problem for problem in bar if problem]
    known = {shard.name for shard in manifest.shards}
    foreign = sorted(tar.name for tar in folder.glob("*.tar") if tar.name not in known)
    return problems + [f"{name}: is not in the manifest; move it elsewhere" for name in foreign]


def _problem(shard: Shard, folder: Path, *, hashes: bool) -> str | None:
    tar = folder / shard.name
    if not tar.is_file():
        return f"{shard.name}: is missing"
    if (size := tar.stat().st_size) != shard.bytes:
        return f"{shard.name}: has {size} bytes, {shard.bytes} are expected"
    try:
        index = build_index(tar) if hashes else open_index(tar)
    except TCLError as error:
        return f"{shard.name}: {error}"
    if index is not None and len(index.rows) != shard.samples:
        return f"{shard.name}: has {len(index.rows)} samples, {shard.samples} are expected"
    if hashes and index is not None and digest(tar, index.rows) != shard.sha256:
        return f"{shard.name}: its samples have another hash"
    return None
