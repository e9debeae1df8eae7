"""Where things lie: taken from the environment, never from the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypedDict

from tcl.errors import TCLError


class DownloadWorkers(TypedDict):
    """Arguments of `tcl.pairs.fetch.Workers`."""

    distributor: str
    processes: int
    threads: int


def checkout() -> Path:
    """The main checkout. A DVC experiment in a temporary copy (.dvc/tmp/exps) answers with the one it was made from."""
    here = Path.cwd().resolve()
    for parent in here.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return here


def data_root() -> Path:
    """Where shards and data sets lie: TCL_DATA, or data/ of the main checkout. Absolute."""
    return Path(os.environ.get("TCL_DATA") or checkout() / "data").absolute()


def runs_root() -> Path:
    """Where unfinished work is kept to be resumed: TCL_RUNS, or runs/ of the main checkout. Absolute."""
    return Path(os.environ.get("TCL_RUNS") or checkout() / "runs").absolute()


def worker_count(ranks: int = 1) -> int:
    """Worker processes to use beside each rank: TCL_WORKERS, or the cores that the ranks leave, at most 8 each."""
    chosen = whole_number("TCL_WORKERS", lowest=0)
    spare = (os.cpu_count() or 1) // ranks - 1
    return min(max(spare, 0), 8) if chosen is None else chosen


def local_processes() -> int:
    """Processes of a stage that works on files: TCL_PROCESSES, or one a core."""
    return whole_number("TCL_PROCESSES") or os.cpu_count() or 1


def download_workers() -> DownloadWorkers:
    """Who downloads pairs: TCL_DISTRIBUTOR, TCL_PROCESSES on this machine, TCL_CONNECTIONS of each process."""
    return DownloadWorkers(
        distributor=os.environ.get("TCL_DISTRIBUTOR") or "local",
        processes=local_processes(),
        threads=whole_number("TCL_CONNECTIONS") or 64,
    )


def archive_mirror() -> str | None:
    """Address of a folder that holds the data sets' archives, asked before their publishers: TCL_MIRROR, or none."""
    mirror = os.environ.get("TCL_MIRROR") or None
    if mirror and not mirror.startswith(("http://", "https://", "file://")):
        raise TCLError(f"TCL_MIRROR must begin with http://, https:// or file://, not {mirror!r}.")
    return mirror


def whole_number(variable: str, *, lowest: int = 1) -> int | None:
    """The number in an environment variable, None if it is not set; raises TCLError if it is not one."""
    value = os.environ.get(variable)
    if not value:
        return None
    if not value.isdecimal() or int(value) < lowest:
        raise TCLError(f"{variable} must be a whole number from {lowest} upwards, got {value!r}.")
    return int(value)
