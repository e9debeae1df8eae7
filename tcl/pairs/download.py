"""Download image-text pairs with img2dataset into shards, and write the manifest that says what came of it.

A download can be killed at any moment and run again: finished shards are kept and no half shard is counted.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tcl.errors import TCLError
from tcl.files import sha256, write_json
from tcl.pairs.adopt import adopted
from tcl.pairs.annotations import Listing, write_url_list
from tcl.pairs.fetch import Workers, check_workers, fetch
from tcl.pairs.manifest import Counts, Manifest, write_manifest
from tcl.pairs.scan import scan
from tcl.pairs.source import Source
from tcl.pairs.stats import add_up, check_samples, drop_shard, drop_unfinished, read_stats, top_failures
from tcl.pairs.worker import WORKERS_LOCK


def download(
    source: Source, *, folder: str | Path, manifest_path: str | Path, workers: Workers, restore: str = ""
) -> Manifest:
    """Bring `folder` to hold every pair of `source` that can be had, and write the manifest of its shards.

    Adopted shards (`tcl.pairs.adopt`) stand for a download. restore: the command that a user runs for this download.
    Raises TCLError if the annotation file is not what `source` says (before anything is downloaded), if another
    download is at work in `folder` or left other pairs there, if img2dataset fails or hangs, and if too few arrive.
    """
    folder = Path(folder).absolute()
    if (manifest := adopted(folder)) is None:
        manifest = _download(source, folder, workers, restore)
    write_manifest(manifest_path, manifest)
    return manifest


def _download(source: Source, folder: Path, workers: Workers, restore: str) -> Manifest:
    if source.serve:  # other machines cannot reach this one's loopback
        workers = workers._replace(distributor="local")
    check_workers(workers)
    work = folder / ".download"
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work), ExitStack() as stack:
        address = stack.enter_context(_server(source.serve)) if source.serve else None
        pairs = work / "pairs.parquet"
        stack.callback(pairs.unlink, missing_ok=True)
        listing = write_url_list(
            pairs, source.annotations, format=source.format, columns=source.columns, address=address
        )
        print(f"{source.name}: {source.annotations.name} has {listing}.", file=sys.stderr)
        annotations = sha256(source.annotations)
        _prepare(folder, source, annotations)
        fetch(folder, source, listing.pairs, workers)
        return _describe(folder, source, listing, annotations, restore)


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    from tcl.pairs.server import serve

    with serve(folder) as address:
        yield address.rstrip("/") + "/"


@contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Keep other downloads out of the folder, and wait for the workers of a killed one, which end by themselves."""
    with open(work / "download.lock", "w") as mine, open(work / WORKERS_LOCK, "w") as workers:
        for file, seconds in ((mine, 0.0), (workers, 10.0)):
            if not _acquire(file.fileno(), seconds):
                raise TCLError(f"Another download is at work in {work.parent}. Wait for its end, or end it.")
        fcntl.flock(workers, fcntl.LOCK_UN)
        yield


def _acquire(file: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)


def _prepare(folder: Path, source: Source, annotations: str) -> None:
    """Leave in `folder` only whole shards of these very pairs; raise TCLError if it holds others."""
    request = {
        "annotations_sha256": annotations,
        "format": source.format,
        "columns": list(source.columns),
        "image_size": source.image_size,
        "resize_mode": source.resize_mode,
        "samples_per_shard": source.samples_per_shard,
    }
    path = folder / ".download" / "request.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    tars = sorted(folder.glob("*.tar"))
    if foreign := [tar for tar in tars if not earlier or not tar.stem.isdigit()]:
        raise TCLError(
            f"{folder} holds {len(foreign)} shards that no download of {source.name!r} made, {foreign[0].name} first. "
            f"`tcl data adopt {source.name}` takes them as they are; or move them away."
        )
    if tars and earlier != request:
        differing = ", ".join(key for key in request if earlier.get(key) != request[key])
        if not source.serve:  # what this machine serves can be had again at any time
            raise TCLError(
                f"{folder} holds {len(tars)} shards of {source.name!r} from a download with other {differing}. "
                "Move or delete the folder, or choose another."
            )
        for tar in tars:
            drop_shard(tar)
    write_json(path, request)
    drop_unfinished(folder, retry_empty=True)
    shutil.rmtree(folder / "_tmp", ignore_errors=True)


def _describe(folder: Path, source: Source, listing: Listing, annotations: str, restore: str) -> Manifest:
    """Check and count what has arrived."""
    stats = read_stats(folder)
    total = add_up(stats)
    failures = top_failures(total.failures + listing.malformed)
    counts = Counts(listing.pairs + listing.malformed.total(), total.succeeded, failures)
    _check_success(folder, source, counts)
    shards = scan(folder).shards
    check_samples(folder, {shard.name: shard.samples for shard in shards}, stats)
    return Manifest(source.name, annotations, counts, shards, listing.counts(), restore)


def _check_success(folder: Path, source: Source, counts: Counts) -> None:
    share = counts.success_ratio
    floor = max(source.min_success, 1 / counts.listed)
    if share >= floor:
        return
    reasons = "\n".join(f"  {count} x {reason}" for reason, count in list(counts.failures.items())[:5])
    advice = (
        f"Shards that arrived stay in {folder}: delete it to try all pairs again, or lower min_success."
        if counts.succeeded
        else "Mend the cause and run the download again."
    )
    raise TCLError(
        f"{source.name}: {counts.succeeded} of {counts.listed} pairs were downloaded ({share:.1%}), "
        f"at least {floor:.1%} are required. The most frequent reasons:\n{reasons}\n{advice}"
    )
