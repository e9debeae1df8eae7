"""The one place where an error becomes a message: every stage and command runs inside it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tcl.errors import TCLError

OPERATING_SYSTEM = {
    errno.ENOSPC: "there is no space left on the disk; make room and run again",
    errno.EROFS: "the file system is read-only; choose another place with TCL_DATA or TCL_RUNS",
    errno.EACCES: "permission denied; choose another place with TCL_DATA or TCL_RUNS, or mend the permissions",
    errno.EDQUOT: "the disk quota is used up; make room and run again",
}


@contextmanager
def boundary(name: str) -> Iterator[None]:
    """Print what the user can mend without a traceback and exit with status 1; Ctrl-C exits with 130."""
    try:
        yield
    except TCLError as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:
        if error.errno not in OPERATING_SYSTEM:
            raise
        sys.exit(f"{name}: {error.filename or ''}: {OPERATING_SYSTEM[error.errno]}.")
    except KeyboardInterrupt:
        print(f"\n{name}: stopped. Run the same command again to carry on.", file=sys.stderr)
        sys.exit(130)
