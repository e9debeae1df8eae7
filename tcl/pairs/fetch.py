"""Run img2dataset over a list of URLs, watch it, and leave nothing of it running or half done.

img2dataset ends with status 0 whatever happened: when every download failed, when it could not write, when it was
interrupted; and it waits for ever for a worker that was killed. So what counts here is which shards are whole.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcl.errors import TCLError
from tcl.files import write_json
from tcl.pairs.source import Source
from tcl.pairs.stats import ShardStats, add_up, drop_unfinished, read_stats, unfinished_bytes

if TYPE_CHECKING:
    from tqdm import tqdm

_POLL_SECONDS = 0.5


def fetch(folder: Path, source: Source, pairs: int, *, processes: int, threads: int) -> None:
    """Run img2dataset for the shards of `folder`/.download/pairs.parquet that are not there yet, and show progress.

    pairs: how many that list has. Raises TCLError if img2dataset fails, hangs or leaves shards out; those that are
    finished stay.
    """
    shards = math.ceil(pairs / source.samples_per_shard)
    needed = shards - len(read_stats(folder))
    if not needed:
        return
    log = folder / ".download" / "log.txt"
    try:
        with _img2dataset(folder, source, log, processes=min(processes, needed), threads=threads) as process:
            _watch(process, folder, source, pairs)
        missing = shards - len(read_stats(folder))
        if process.returncode or missing:
            raise TCLError(
                f"img2dataset ended with status {process.returncode} and left {missing} of {shards} shards of "
                f"{source.name!r} unfinished. Run the download again: finished shards are kept.\n{_tail(log)}"
            )
    finally:
        drop_unfinished(folder, retry_empty=False)
        shutil.rmtree(folder / "_tmp", ignore_errors=True)


@contextmanager
def _img2dataset(
    folder: Path, source: Source, log: Path, *, processes: int, threads: int
) -> Iterator[subprocess.Popen[bytes]]:
    """img2dataset at work, in a process group of its own, none of which outlives the block."""
    arguments = folder / ".download" / "arguments.json"
    write_json(arguments, _arguments(folder, source, processes=processes, threads=threads))
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "OMP_NUM_THREADS": "1"}
    if source.serve:  # a proxy cannot reach this machine's loopback
        environment |= {"no_proxy": "*", "NO_PROXY": "*"}
    command = [sys.executable, "-m", "tcl.pairs.worker", str(arguments)]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _arguments(folder: Path, source: Source, *, processes: int, threads: int) -> dict[str, Any]:
    """img2dataset's arguments; what is not set here is its default, as in the official recipe."""
    return {
        "url_list": str(folder / ".download" / "pairs.parquet"),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": str(folder),
        "processes_count": processes,
        "thread_count": threads,
        "image_size": source.image_size,
        "resize_mode": source.resize_mode,
        "resize_only_if_bigger": True,
        "number_sample_per_shard": source.samples_per_shard,
        "retries": source.retries,
        "timeout": source.timeout,
        "incremental_mode": "incremental",
        "extract_exif": False,
        "compute_hash": None,
        "enable_wandb": False,
    }


def _watch(process: subprocess.Popen[bytes], folder: Path, source: Source, pairs: int) -> None:
    """Show progress until img2dataset ends; raise TCLError if it has written nothing for `source.stall` seconds."""
    from tqdm import tqdm

    stats: dict[str, ShardStats] = {}
    written, changed = (0, 0), time.monotonic()
    with tqdm(total=pairs, desc=source.name, unit="pair", disable=None) as bar:
        running = True
        while running:
            running = _runs(process)
            stats = read_stats(folder, stats)
            _show(bar, add_up(stats))
            if (now := (len(stats), unfinished_bytes(folder, stats))) != written:
                written, changed = now, time.monotonic()
            elif time.monotonic() - changed > source.stall:
                raise TCLError(
                    f"The download of {source.name!r} hangs: nothing was written for {source.stall:.0f} seconds. "
                    "Run it again: finished shards are kept."
                )


def _runs(process: subprocess.Popen[bytes]) -> bool:
    """Wait a moment, and say whether the process is still at work."""
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _show(bar: tqdm[Any], total: ShardStats) -> None:
    bar.update(total.tried - bar.n)
    if total.tried:
        bar.set_postfix_str(f"{total.succeeded / total.tried:.1%} arrived")


def _tail(log: Path) -> str:
    """The last lines of img2dataset's output."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    shown = [f"  {line}" for line in lines if line.strip()][-6:]
    return "\n".join([f"The end of {log}:", *shown])
