"""One file for each stage of dvc.yaml: parse, build, run, write."""

import gc
import os
import sys
from types import TracebackType

from tcl.processes import keep_freed_memory

# Threads that spin while they wait slow each other down many times over on a machine that does other work too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
keep_freed_memory()
gc.disable()  # while the stage imports, which leaves half a million objects and hardly any garbage; see `boundary`


def _say_it_briefly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C while a stage still imports is no fault to be traced."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nStopped. Run the same command again to carry on.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _say_it_briefly
