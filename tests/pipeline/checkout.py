"""A temporary clone of the project, and commands in it as a user would give them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TCL = (sys.executable, "-m", "tcl.commands.main")


def clone(folder: Path) -> Path:
    """A fresh clone of the committed project."""
    run(ROOT, "git", "clone", "--quiet", str(ROOT), str(folder))
    return folder


def environment(checkout: Path) -> dict[str, str]:
    """The environment of a command in a checkout: its own code, data, runs and tracking."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    values = {**os.environ, "PATH": path, "PYTHONPATH": str(checkout)}
    return {name: value for name, value in values.items() if not name.startswith(("TCL_", "MLFLOW_", "DVC_"))}


def run(checkout: Path, *command: str, timeout: int = 900) -> str:
    """Standard output of a command that succeeds."""
    result = subprocess.run(
        command, cwd=checkout, env=environment(checkout), capture_output=True, text=True, timeout=timeout
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout
