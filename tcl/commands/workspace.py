"""Where things lie: taken from the environment, never from the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tcl.errors import TCLError

if TYPE_CHECKING:
    from tcl.training.machine import Machine


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
    chosen = _number("TCL_WORKERS", lowest=0)
    return min((os.cpu_count() or 1) // ranks - 1, 8) if chosen is None else chosen


def machine() -> Machine:
    """How training is laid out here: TCL_MICRO_BATCH and the like, see docs/training.md.

    Raises TCLError that names a malformed variable.
    """
    from tcl.training.machine import Machine

    return Machine(
        micro_batch=_number("TCL_MICRO_BATCH"),
        compiled=_switch("TCL_COMPILE"),
        recompute=_switch("TCL_RECOMPUTE"),
        channels_last=_switch("TCL_CHANNELS_LAST"),
        workers=worker_count(int(os.environ.get("LOCAL_WORLD_SIZE", 1))),
        timeout=_number("TCL_TIMEOUT") or 600,
    )


def _number(variable: str, *, lowest: int = 1) -> int | None:
    value = os.environ.get(variable)
    if not value:
        return None
    if not value.isdecimal() or int(value) < lowest:
        raise TCLError(f"{variable} must be a whole number from {lowest} upwards, got {value!r}.")
    return int(value)


def _switch(variable: str) -> bool:
    value = os.environ.get(variable, "0")
    if value not in {"0", "1"}:
        raise TCLError(f"{variable} must be 0 or 1, got {value!r}.")
    return value == "1"
