"""An end to a process that hangs: in storage, in a loading process, on a GPU, waiting for a rank that says nothing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Watchdog:
    """Ends this process unless it reports in time."""

    def __init__(self, timeout: float, title: str) -> None:
        self.timeout, self.title = timeout, title
        self._reported = threading.Event()
        self._over = False

    def report(self) -> None:
        """Say that work goes on."""
        self._reported.set()

    def watch(self) -> None:
        """Wait for reports until it is over."""
        while self._reported.wait(self.timeout):
            self._reported.clear()
            if self._over:
                return
        print(
            f"\n{self.title}: no step has finished for {self.timeout:g} seconds; storage, a loading process or a GPU "
            "hangs, or another process of this job. Ended. Run again to go on from the last checkpoint; TCL_TIMEOUT "
            "sets the seconds.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    def stop(self) -> None:
        self._over = True
        self.report()


@contextmanager
def watchdog(timeout: float, title: str) -> Iterator[Watchdog]:
    """Within the block, end the process with status 1 if it does not report for so many seconds."""
    dog = Watchdog(timeout, title)
    thread = threading.Thread(target=dog.watch, daemon=True)
    thread.start()
    try:
        yield dog
    finally:
        dog.stop()
        thread.join()
