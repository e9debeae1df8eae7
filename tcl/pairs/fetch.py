"""Run img2dataset over a list of URLs, watch it, and leave nothing of it running or half done.

img2dataset ends with status 0 whatever happened: when every download failed, when it could not write, when it was
interrupted; and it waits for ever for a worker that was killed. So what counts here is which shards are whole.
"""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tcl.errors import TCLError
from tcl.files import write_json
from tcl.pairs.source import Source
from tcl.pairs.stats import ShardStats, add_up, drop_unfinished, read_stats, unfinished_bytes
from tcl.progress import progress

if TYPE_CHECKING:
    from tqdm import tqdm

DISTRIBUTORS = {"local": "multiprocessing", "pyspark": "pyspark", "ray": "ray"}
"""Ways to spread the work, and img2dataset's names for them; Spark and Ray are packages of the same names."""

_POLL_SECONDS = 0.5
_LOOKS = 10  # share of its time, as 1 / _LOOKS, that watching may take: on a slow disk it looks less often
_DISK = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)}
"""What a worker says that cannot write, by the number of the error; img2dataset goes on, or stands still."""


class Workers(NamedTuple):
    """Who downloads: they change the speed, not the result.

    distributor: one of `DISTRIBUTORS`. processes: on this machine; a cluster has its own number. threads: connections
    of each process.
    """

    distributor: str = "local"
    processes: int = 2
    threads: int = 64


def check_workers(workers: Workers) -> None:
    """Raise TCLError if the distributor is not known or its package not installed."""
    name = workers.distributor
    if name not in DISTRIBUTORS:
        raise TCLError(f"The distributor of downloads is one of {', '.join(DISTRIBUTORS)}, not {name!r}.")
    if name != "local" and importlib.util.find_spec(name) is None:  # img2dataset would do nothing and call it success
        raise TCLError(f"The distributor {name} needs the package {name}: pip install -e '.[{name}]'.")


def fetch(folder: Path, source: Source, pairs: int, workers: Workers) -> None:
    """Run img2dataset for the shards of `folder`/.download/pairs.parquet that are not there yet, and show progress.

    pairs: how many that list has. Raises TCLError if img2dataset fails, hangs or leaves shards out; those that are
    finished stay.
    """
    shards = math.ceil(pairs / source.samples_per_shard)
    needed = shards - len(read_stats(folder))
    if not needed:
        return
    log = folder / ".download" / "log.txt"
    workers = workers._replace(processes=min(workers.processes, needed))
    try:
        with _img2dataset(folder, source, log, workers) as process:
            _watch(process, folder, source, pairs, log)
        _check_disk(folder, log)
        _check_end(process.returncode, shards - len(read_stats(folder)), source, log)
    finally:
        drop_unfinished(folder, retry_empty=False)
        shutil.rmtree(folder / "_tmp", ignore_errors=True)


def _check_end(status: int, missing: int, source: Source, log: Path) -> None:
    """Raise TCLError if shards are missing."""
    if status or missing:
        end = "\n".join(f"  {line}" for line in _tail(log)[-6:])
        raise TCLError(
            f"img2dataset ended with status {status} and left {missing} shards of {source.name!r} unfinished. "
            f"Run the download again: finished shards are kept.\nThe end of {log}:\n{end}"
        )


def _check_disk(folder: Path, log: Path) -> None:
    """Raise OSError if a worker could not write."""
    end = "\n".join(_tail(log))
    for message, number in _DISK.items():
        if f"[Errno {number}] {message}" in end:
            raise OSError(number, message, str(folder))


@contextmanager
def _img2dataset(folder: Path, source: Source, log: Path, workers: Workers) -> Iterator[subprocess.Popen[bytes]]:
    """img2dataset at work, in a process group of its own, none of which outlives the block."""
    arguments = folder / ".download" / "arguments.json"
    write_json(arguments, _arguments(folder, source, workers))
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


def _arguments(folder: Path, source: Source, workers: Workers) -> dict[str, Any]:
    """img2dataset's arguments; what is not set here is its default, as in the official recipe."""
    return {
        "url_list": str(folder / ".download" / "pairs.parquet"),
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "output_folder": str(folder),
        "distributor": DISTRIBUTORS[workers.distributor],
        "processes_count": workers.processes,
        "thread_count": workers.threads,
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


def _watch(process: subprocess.Popen[bytes], folder: Path, source: Source, pairs: int, log: Path) -> None:
    """Show progress until img2dataset ends.

    Raises TCLError if it has written nothing for `source.stall` seconds, OSError if it cannot write.
    """
    stats = read_stats(folder)
    written, changed, pause = (0, 0), time.monotonic(), _POLL_SECONDS
    with closing(progress(title=source.name, unit="pair", total=pairs, done=add_up(stats).tried)) as bar:
        bar.smoothing = 0  # shards end in bursts: the rate is the mean of this run
        while _runs(process, pause):
            now = time.monotonic()
            stats = read_stats(folder, stats)
            unfinished = unfinished_bytes(folder, stats)
            _show(bar, add_up(stats), unfinished)
            _check_disk(folder, log)
            pause = max(_POLL_SECONDS, _LOOKS * (time.monotonic() - now))
            if (len(stats), unfinished) != written:
                written, changed = (len(stats), unfinished), now
            elif now - changed > source.stall:
                raise TCLError(
                    f"The download of {source.name!r} hangs: nothing was written for {source.stall:.0f} seconds. "
                    "Run it again: finished shards are kept."
                )
        _show(bar, add_up(read_stats(folder, stats)), 0)


def _show(bar: tqdm[Any], total: ShardStats, unfinished: int) -> None:
    """Show the pairs of finished shards and, as a sign of life before the first is done, the bytes of the others."""
    arrived = f"{total.succeeded / total.tried:.1%} arrived, " if total.tried else ""
    bar.set_postfix_str(f"{arrived}{unfinished / 1e6:,.0f} MB under way", refresh=False)
    bar.update(total.tried - bar.n)
    if sys.stderr.isatty():
        bar.refresh()


def _runs(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait so long, and say whether the process is still at work."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _tail(log: Path) -> list[str]:
    """The last lines of img2dataset's output."""
    with open(log, "rb") as file:
        file.seek(max(file.seek(0, 2) - (1 << 18), 0))
        text = file.read().decode(errors="replace").replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip()]
