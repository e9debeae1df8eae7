"""Where things lie: taken from the environment, never from the configuration."""

from __future__ import annotations

import os
from pathlib import Path


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
    if "TCL_WORKERS" in os.environ:
        return max(int(os.environ["TCL_WORKERS"]), 0)
    return min((os.cpu_count() or 1) // ranks - 1, 8)
