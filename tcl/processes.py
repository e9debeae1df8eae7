"""What processes ask of the operating system."""

from __future__ import annotations

import ctypes
import signal
import sys


def die_with_parent(how: signal.Signals) -> None:
    """Ask Linux to send this process a signal when the thread that started it ends, as it does with its process."""
    if sys.platform == "linux":
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, how)


def keep_freed_memory() -> None:
    """Let this process keep blocks of up to 32 MiB that it frees, 1 GiB in all.

    By default glibc gives them back, and the system zeroes every page anew for the next tensor of that size, which
    takes more than a tenth of a small model's time.
    """
    if sys.platform == "linux":
        trim_threshold, mmap_threshold = -1, -3
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 32 << 20)
        libc.mallopt(trim_threshold, 1 << 30)
