"""Download image-text pairs with img2dataset into shards, and write the manifest that says what came of it.

A download can be killed at any moment and run again: finished shards are kept and no half shard is counted.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tcl.errors import TCLError
from tcl.files import sha256, write_json
from tcl.pairs.annotations import MALFORMED, Listing, write_url_list
from tcl.pairs.fetch import fetch
from tcl.pairs.manifest import Counts, Manifest, scan, write_manifest
from tcl.pairs.source import Source
from tcl.pairs.stats import add_up, check_samples, drop_shard, drop_unfinished, read_stats, top_failures
from tcl.pairs.worker import WORKERS_LOCK


def download(
    source: Source, *, folder: str | Path, manifest_path: str | Path, processes: int = 2, threads: int = 32
) -> Manifest:
    """Bring `folder` to hold every pair of `source` that can be had, and write the manifest of its shards.

    processes, threads: img2dataset's workers, and the connections of each; they change the speed, not the result.
    Raises TCLError if the annotation file is not what `source` says (before anything is downloaded), if another
    download is at work in `folder` or left other pairs there, if img2dataset fails or hangs, and if too few arrive.
    """
    folder = Path(folder).absolute()
    work = folder / ".download"
    work.mkdir(parents=True, exist_ok=True)
    with _locked(work), ExitStack() as stack:
        address = stack.enter_context(_server(source.serve)) if source.serve else None
        pairs = work / "pairs.parquet"
        stack.callback(pairs.unlink, missing_ok=True)
        listing = write_url_list(pairs, source.annotations, columns=source.columns, address=address)
        annotations = sha256(source.annotations)
        _prepare(folder, source, annotations)
        fetch(folder, source, listing.pairs, processes=processes, threads=threads)
        manifest = _describe(folder, source, listing, annotations)
        write_manifest(manifest_path, manifest)
    return manifest


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
            "Move them away, or choose another folder."
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


def _describe(folder: Path, source: Source, listing: Listing, annotations: str) -> Manifest:
    """Check and count what has arrived."""
    stats = read_stats(folder)
    total = add_up(stats)
    failures = total.failures + Counter({MALFORMED: listing.malformed})
    counts = Counts(listing.pairs + listing.malformed, total.succeeded, top_failures(failures))
    _check_success(folder, source, counts)
    shards = scan(folder)
    check_samples(folder, {shard.name: shard.samples for shard in shards}, stats)
    return Manifest(source.name, annotations, counts, shards)


def _check_success(folder: Path, source: Source, counts: Counts) -> None:
    share = counts.succeeded / counts.listed
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
