"""The main table: one row a method, one column a benchmark, and the average of all columns."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tcl.datasets.benchmark import KEYS
from tcl.errors import TCLError

UNKNOWN = "–"


@dataclass(frozen=True)
class Row:
    """mIoU in percent by benchmark key; None where it is not known."""

    name: str
    source: str
    values: Mapping[str, float | None]

    @property
    def average(self) -> float | None:
        """Mean over all benchmarks; None unless every one is known."""
        known = [value for key in KEYS if (value := self.values.get(key)) is not None]
        return sum(known) / len(known) if len(known) == len(KEYS) else None

    def rounded(self) -> dict[str, float]:
        """What is known, and the average, in percent with two decimals."""
        values = {**self.values, "average": self.average}
        return {key: round(value, 2) for key, value in values.items() if value is not None}

    def minus(self, other: Row) -> Row:
        """The difference in points, where both are known."""
        pairs = {key: (self.values.get(key), other.values.get(key)) for key in KEYS}
        values = {key: None if a is None or b is None else a - b for key, (a, b) in pairs.items()}
        return Row(f"{self.name} – {other.name}", "difference in points", values)


def paper_rows(names: Sequence[str]) -> list[Row]:
    """Rows of `paper.yaml` by name; raises TCLError if there is no such row."""
    known: dict[str, Any] = yaml.safe_load((files("tcl.report") / "paper.yaml").read_text(encoding="utf-8"))
    if unknown := [name for name in names if name not in known]:
        raise TCLError(f"report.paper_rows: {', '.join(unknown)} is not in tcl/report/paper.yaml: {', '.join(known)}.")
    return [Row(known[name]["name"], known[name]["source"], known[name]["mIoU"]) for name in names]


def read_results(folder: Path, variant: str) -> dict[str, dict[str, Any]]:
    """The result files of a variant by benchmark key; those that do not exist are left out."""
    paths = [(key, folder / variant / f"{key}.json") for key in KEYS]
    paths += [(key, folder / "baselines" / key / f"{variant}.json") for key in KEYS]
    return {key: json.loads(path.read_text(encoding="utf-8")) for key, path in paths if path.is_file()}


def our_row(name: str, results: Mapping[str, Mapping[str, Any]]) -> Row:
    """A row from result files, named with its refinement and background threshold."""
    settings = [result["settings"] for result in results.values()]
    refined = {"+ PAMR" if each["pamr"] else "no PAMR" for each in settings}
    thresholds = sorted({each["bg_thresh"] for each in settings if each["bg_thresh"] is not None})
    images = sum(result["images"] for result in results.values())
    return Row(
        f"{name} {', '.join(sorted(refined))}",
        f"measured here: {images} images, background threshold {', '.join(map(str, thresholds)) or 'none'}",
        {key: result["mIoU"] for key, result in results.items()},
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table in Markdown, with one decimal, padded so that it also reads well as plain text."""
    header = ["mIoU %", *KEYS, "average"]
    lines = [header, *[[row.name, *_cells(row)] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def joined(line: list[str]) -> str:
        padded = [line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([joined(header), joined(rule), *map(joined, lines[1:])]) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """The table as CSV with all digits; unknown values are empty."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", *KEYS, "average", "source"])
    for row in rows:
        writer.writerow([row.name, *(row.values.get(key) for key in KEYS), row.average, row.source])
    return table.getvalue()


def per_class(results: Mapping[str, Mapping[str, Mapping[str, Any]]], key: str) -> str:
    """IoU in percent of every class of a benchmark as CSV, one column a variant; empty where a class does not occur.

    results: result files by variant and benchmark key.
    """
    scored = {variant: scores[key]["IoU"] for variant, scores in results.items() if key in scores}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["class", *scored])
    for name in dict.fromkeys(name for iou in scored.values() for name in iou):
        writer.writerow([name, *(iou.get(name) for iou in scored.values())])
    return table.getvalue()


def _cells(row: Row) -> list[str]:
    sign = "+" if row.source == "difference in points" else ""
    values = [*(row.values.get(key) for key in KEYS), row.average]
    return [UNKNOWN if value is None else f"{value:{sign}.1f}" for value in values]
