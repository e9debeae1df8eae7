"""The one place where an error becomes a message: every stage and command runs inside it."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tcl.errors import TCLError

OPERATING_SYSTEM = {
    errno.ENOSPC: "there is no space left on the disk; make room and run again",
    errno.EROFS: "the file system is read-only; choose another place with TCL_DATA or TCL_RUNS",
    errno.EACCES: "permission denied; choose another place with TCL_DATA or TCL_RUNS, or mend the permissions",
    errno.EDQUOT: "the disk quota is used up; make room and run again",
}


FIRST_RANK_SPEAKS = 3.0
"""Seconds that another rank keeps an error to itself: mostly the first one has the same, and then torchrun ends all."""


@contextmanager
def boundary(name: str) -> Iterator[None]:
    """Print what the user can mend without a traceback and exit with status 1; Ctrl-C exits with 130."""
    gc.freeze()  # modules stay; looking through them for garbage again and again would take a second of each stage
    gc.enable()
    try:
        yield
    except TCLError as error:
        _refuse(f"{name}: {error}")
    except BrokenPipeError:  # whoever read the output has had enough of it, like `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in OPERATING_SYSTEM:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _refuse(f"{name}: {place}{OPERATING_SYSTEM[error.errno]}.")
    except KeyboardInterrupt:
        stopped(name, signal.SIGINT)


def stopped(name: str, by: signal.Signals) -> NoReturn:
    """Say that a signal has ended the work, and exit with the shell's status for it."""
    print(f"\n{name}: stopped. Run the same command again to carry on.", file=sys.stderr)
    sys.exit(128 + by)


def _refuse(message: str) -> NoReturn:
    if os.environ.get("RANK", "0") != "0":
        time.sleep(FIRST_RANK_SPEAKS)
    sys.exit(message)
