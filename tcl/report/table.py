"""Tables of mIoU: one row a method, one column a benchmark, and the average of the eight."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import mean, stdev
from typing import Any, Literal

import yaml

from tcl.datasets.benchmark import KEYS
from tcl.errors import TCLError

UNKNOWN = "–"

Kind = Literal["paper", "baseline", "ours", "difference"]


@dataclass(frozen=True)
class Cell:
    """mIoU in percent, or none; then `note` says why, or is empty for a number that nobody has told us.

    spread: sample standard deviation over seeds, if there were several.
    """

    value: float | None = None
    note: str = ""
    spread: float | None = None

    def text(self, *, sign: str = "") -> str:
        """As shown: one decimal."""
        if self.value is None:
            return self.note or UNKNOWN
        return f"{self.value:{sign}.1f}" + ("" if self.spread is None else f" ± {self.spread:.1f}")


def over_seeds(cells: Sequence[Cell]) -> Cell:
    """Mean and spread of one number over seeds; if one of them does not count, none does."""
    if bad := next((cell for cell in cells if cell.value is None), None):
        return bad
    values = [cell.value for cell in cells if cell.value is not None]
    return Cell(mean(values), spread=stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Row:
    """One method's numbers by benchmark key; source: where they come from, in words."""

    name: str
    kind: Kind
    source: str
    cells: Mapping[str, Cell]

    def cell(self, column: str) -> Cell:
        """The number of a column; `average`: the mean over the eight benchmarks, if all of them count."""
        if column != "average":
            return self.cells.get(column, Cell())
        if "average" in self.cells:
            return self.cells["average"]
        chosen = [self.cells.get(key, Cell()) for key in KEYS]
        values = [cell.value for cell in chosen if cell.value is not None]
        return Cell(mean(values)) if len(values) == len(KEYS) else Cell()

    def shown(self, column: str) -> str:
        """The number of a column as text."""
        return self.cell(column).text(sign="+" if self.kind == "difference" else "")

    def rounded(self) -> dict[str, float]:
        """What counts, and the average, in percent with two decimals."""
        values = {key: self.cell(key).value for key in (*self.cells, "average")}
        return {key: round(value, 2) for key, value in values.items() if value is not None}

    def minus(self, other: Row) -> Row:
        """The difference in points, where both count."""
        pairs = {key: (self.cell(key).value, other.cell(key).value) for key in KEYS}
        cells = {key: Cell() if a is None or b is None else Cell(a - b) for key, (a, b) in pairs.items()}
        return Row(f"{self.name} – {other.name}", "difference", "difference in points", cells)


@dataclass(frozen=True)
class Table:
    """Rows under the columns of benchmark keys and `average`."""

    title: str
    rows: Sequence[Row]
    columns: Sequence[str] = (*KEYS, "average")

    def best(self, column: str) -> float | None:
        """The highest shown number of a column, differences aside."""
        values = [row.cell(column).value for row in self.rows if row.kind != "difference"]
        return max((round(value, 1) for value in values if value is not None), default=None)

    def is_best(self, row: Row, column: str) -> bool:
        """Whether a row's number is the best of its column, as shown."""
        value = row.cell(column).value
        return row.kind != "difference" and value is not None and round(value, 1) == self.best(column)

    def lines(self) -> list[list[str]]:
        """All cells as text, the header first."""
        return [
            ["mIoU %", *self.columns],
            *[[row.name, *map(row.shown, self.columns)] for row in self.rows],
        ]


def paper_rows(names: Sequence[str]) -> list[Row]:
    """Rows of `paper.yaml` by name; raises TCLError if there is no such row."""
    known: dict[str, Any] = yaml.safe_load((files("tcl.report") / "paper.yaml").read_text(encoding="utf-8"))
    if unknown := [name for name in names if name not in known]:
        raise TCLError(f"report.paper_rows: {', '.join(unknown)} is not in tcl/report/paper.yaml: {', '.join(known)}.")
    return [
        Row(known[name]["name"], "paper", known[name]["source"], {k: Cell(v) for k, v in known[name]["mIoU"].items()})
        for name in names
    ]


def markdown(table: Table) -> str:
    """The table in Markdown, padded so that it also reads well as plain text."""
    lines = table.lines()
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def joined(line: list[str]) -> str:
        padded = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([joined(lines[0]), joined(rule), *map(joined, lines[1:])]) + "\n"


def as_csv(table: Table) -> str:
    """The table as CSV with all digits, spreads in columns of their own; a number that does not count is a word."""
    spread = [key for key in table.columns if any(row.cell(key).spread is not None for row in table.rows)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["name", *table.columns, *(f"{key} spread" for key in spread), "source"])
    for row in table.rows:
        cells = [row.cell(key) for key in table.columns]
        values = [cell.note if cell.value is None else cell.value for cell in cells]
        writer.writerow([row.name, *values, *(row.cell(key).spread for key in spread), row.source])
    return out.getvalue()


def latex(table: Table) -> str:
    """The table as a LaTeX tabular for booktabs, the best number of each column in bold."""
    lines = [
        f"% {table.title}. Needs \\usepackage{{booktabs}}.",
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        _latex_line(["mIoU \\%", *map(_latex_text, table.columns)]),
    ]
    previous = None
    for row in table.rows:
        lines += ["\\midrule"] if row.kind != previous else []
        lines.append(_latex_line([_latex_text(row.name), *(_latex_cell(table, row, key) for key in table.columns)]))
        previous = row.kind
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def per_class(results: Mapping[str, Mapping[str, Any]]) -> str:
    """IoU in percent of every class of one benchmark as CSV, one column a variant; empty where a class does not occur.

    results: the content of result files by variant.
    """
    scored = {variant: raw["IoU"] for variant, raw in results.items()}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["class", *scored])
    for name in dict.fromkeys(name for iou in scored.values() for name in iou):
        writer.writerow([name, *(iou.get(name) for iou in scored.values())])
    return out.getvalue()


def _latex_text(text: str) -> str:
    return text.replace("_", "\\_").replace("–", "--").replace("%", "\\%").replace("&", "\\&")


def _latex_cell(table: Table, row: Row, column: str) -> str:
    cell, text = row.cell(column), row.shown(column)
    if cell.value is None:
        return f"\\textit{{{cell.note}}}" if cell.note else "--"
    if cell.spread is not None:
        text = text.replace(" ± ", " {\\small$\\pm$") + "}"
    return f"\\textbf{{{text}}}" if table.is_best(row, column) else text


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"
