"""The curves of a training, as a table that DVC and people can plot."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from tcl.files import write_text
from tcl.training.state import Row


def write_curves(path: Path, rows: list[Row]) -> None:
    """Write logged rows as CSV, one column a quantity, numbers with all their digits."""
    table = io.StringIO()
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())
