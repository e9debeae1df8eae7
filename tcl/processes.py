"""Processes that do not outlive those that started them."""

from __future__ import annotations

import ctypes
import signal
import sys


def die_with_parent(how: signal.Signals) -> None:
    """Ask Linux to send this process a signal when the thread that started it ends, as it does with its process."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, how)
