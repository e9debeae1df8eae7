"""How training is laid out on this machine: taken from the environment, never from the configuration."""

from __future__ import annotations

import os

from tcl.commands.workspace import whole_number, worker_count
from tcl.errors import TCLError
from tcl.training.machine import Machine


def machine() -> Machine:
    """This machine's layout, by the variables that docs/training.md lists; raises TCLError for a malformed one."""
    return Machine(
        micro_batch=whole_number("TCL_MICRO_BATCH"),
        compiled=_switch("TCL_COMPILE"),
        recompute=_switch("TCL_RECOMPUTE"),
        channels_last=_switch("TCL_CHANNELS_LAST"),
        workers=worker_count(int(os.environ.get("LOCAL_WORLD_SIZE", 1))),
        timeout=whole_number("TCL_TIMEOUT") or Machine.timeout,
    )


def _switch(variable: str) -> bool:
    value = os.environ.get(variable) or "0"
    if value not in {"0", "1"}:
        raise TCLError(f"{variable} must be 0 or 1, got {value!r}.")
    return value == "1"
