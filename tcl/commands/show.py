"""`tcl show`: the main table on the terminal."""

from __future__ import annotations

from pathlib import Path

from tcl.errors import TCLError


def show(report: Path) -> None:
    """Print the main table of a finished report and what else there is to look at."""
    table = report / "table.md"
    if not table.is_file():
        raise TCLError(f"{table}: not found. `dvc repro` makes it.")
    print(table.read_text(encoding="utf-8"))
    print(f"Report:       {report / 'index.html'}")
    print("Experiments:  mlflow ui            then open http://127.0.0.1:5000")
    print("Next:         dvc exp run -S evaluate.pamr=false; dvc exp show --only-changed")
