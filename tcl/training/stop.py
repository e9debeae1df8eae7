"""Being asked to stop: by a scheduler, by a user, by a machine that goes down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """The signal that asked this process to stop, once one has come."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt  # the user presses Ctrl-C again
        self.signal = signal.Signals(number)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block these signals are noted instead of obeyed, unless they are ignored; in the main thread only.

    After the block they are obeyed again. But once one has come, all but Ctrl-C are ignored: the process is about to
    end, and torchrun sends on what a scheduler may have sent to the process itself.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    obeyed = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, request) for number in obeyed}
    try:
        yield request
    finally:
        for number, handler in before.items():
            ending = request.signal is not None and number != signal.SIGINT
            signal.signal(number, signal.SIG_IGN if ending else handler)


def leave_to_parent() -> None:
    """Ignore the same signals: for a helper process that its parent ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
