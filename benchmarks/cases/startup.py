"""What a user waits for before anything happens: commands and stages up to the end of their imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.measure import Case

STAGES = ("download", "prepare", "report", "evaluate", "train")


def cases(full: bool) -> Iterator[Case]:
    """`tcl --help` and the stages' imports, beside a Python that does nothing."""
    works = {"tcl --help": python("-m", "tcl.commands.main", "--help")}
    works |= {f"stage {stage}": python("-c", f"import stages.{stage}") for stage in STAGES}
    for size, work in works.items():
        yield Case("start-up, beside an empty Python", size, work, python("-c", "pass"), floor=True)


def python(*arguments: str) -> Callable[[], None]:
    """A Python of this environment, run to its end."""

    def run() -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    return run
