"""Batches in order, loaded ahead by worker processes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from multiprocessing.util import Finalize
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from tcl.errors import TCLError
from tcl.processes import die_with_parent
from tcl.training.stop import leave_to_parent


class _Told(Dataset[Any]):
    """A data set whose errors come back as values: raised in a worker, torch would wrap them in a traceback."""

    def __init__(self, batches: Dataset[Any]) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches[step]
        except TCLError as error:
            return error


def batches_from(
    batches: Dataset[Any], steps: range, *, workers: int, waited: Callable[[float], None]
) -> Iterator[tuple[int, Any]]:
    """Step and batch for each of `steps`; `waited` is told the seconds that each was waited for.

    Raises TCLError if a batch cannot be made or a worker dies.
    """
    loader = DataLoader(
        _Told(batches),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_begin_worker,
    )
    loaded = iter(loader)
    Finalize(None, _end_workers, exitpriority=0)
    if threading.current_thread() is threading.main_thread():
        # torch's handler would raise the news of a dead worker anywhere, be it while a checkpoint is written; without
        # it the next batch brings them.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for step in steps:
        began = time.monotonic()
        try:
            batch = next(loaded)
        except (RuntimeError, OSError, EOFError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            raise TCLError(
                f"step {step}: its data did not arrive ({reason}). If a loading process was ended for lack of memory, "
                "set TCL_WORKERS to fewer; run again to go on from the last checkpoint."
            ) from error
        if isinstance(batch, TCLError):
            raise batch
        waited(time.monotonic() - began)
        yield step, batch


def _begin_worker(number: int) -> None:
    leave_to_parent()
    die_with_parent(signal.SIGKILL)


def _end_workers() -> None:
    """End loading processes that are left when this one exits, as they are after an error.

    multiprocessing would send them a signal that they ignore, and wait for ever.
    """
    for process in active_children():
        process.kill()
