"""Tables as text: rounding, the best of a column, Markdown, CSV and LaTeX."""

import csv
import io
import math

import pytest

from tcl.datasets.benchmark import KEYS
from tcl.errors import TCLError
from tcl.report.charts import Line, line_chart, ticks
from tcl.report.table import Cell, Row, Table, as_csv, latex, markdown, over_seeds, paper_rows


def ours(name: str, *values: float | None) -> Row:
    return Row(name, "ours", "trained here", dict(zip(KEYS, map(Cell, values), strict=True)))


def table() -> Table:
    one = ours("one", *[50.04] * 8)
    other = ours("an_other", *[50.0] * 7, None)
    return Table("Main & more", [*paper_rows(["tcl_pamr"]), one, other, one.minus(other)])


def test_the_paper_s_numbers() -> None:
    row = paper_rows(["tcl_pamr"])[0]
    assert [row.shown(key) for key in KEYS] == ["55.0", "30.4", "31.6", "83.2", "33.9", "22.4", "24.0", "17.1"]
    assert row.shown("average") == "37.2"
    with pytest.raises(TCLError, match="tcl_pamrr is not in"):
        paper_rows(["tcl_pamrr"])


def test_the_best_of_a_column_is_what_is_shown_as_best() -> None:
    made = table()
    paper, one, other, difference = made.rows
    assert made.is_best(one, "context")
    assert made.is_best(other, "context")  # both are shown as 50.0
    assert made.is_best(paper, "voc")
    assert not made.is_best(one, "voc")
    assert not made.is_best(difference, "context")
    assert not made.is_best(other, "ade20k")


def test_a_difference_is_signed_and_needs_both() -> None:
    difference = table().rows[-1]
    assert difference.shown("voc") == "+0.0"
    assert difference.shown("ade20k") == "–"
    assert difference.cell("average").value is None


def test_seeds() -> None:
    assert over_seeds([Cell(1.0), Cell(3.0)]) == Cell(2.0, spread=math.sqrt(2))
    assert over_seeds([Cell(1.0)]) == Cell(1.0)
    assert over_seeds([Cell(1.0), Cell(note="stale")]).text() == "stale"


def test_markdown_is_aligned() -> None:
    lines = markdown(table()).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[1].count(": |") == 9


def test_csv_has_all_digits() -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(table()))))
    assert rows[1]["voc"] == "50.04"
    assert rows[2]["ade20k"] == ""
    spread = Table("seeds", [Row("one", "ours", "2 seeds", {"voc": Cell(2.0, spread=0.5)})])
    assert next(csv.DictReader(io.StringIO(as_csv(spread))))["voc spread"] == "0.5"


def test_latex_is_escaped_and_balanced() -> None:
    text = latex(table())
    assert "an\\_other" in text
    assert "\\textbf{50.0}" in text
    assert text.count("{") == text.count("}")
    assert all(line.count("&") == 9 for line in text.splitlines() if line.endswith("\\\\"))


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 599), (-0.3, 8.123), (3, 3), (0, 0), (1e-6, 4e-6), (0, 5e4)])
def test_ticks_are_few_and_hold_all(low: float, high: float) -> None:
    made = ticks(low, high)
    assert 2 <= len(made) <= 8
    assert made[0] <= low + 1e-9
    assert made[-1] >= high - 1e-9


def test_a_chart_draws_inside_its_frame() -> None:
    chart = line_chart("<losses>", [Line([(0, 1.0), (10, -2.0), (20, 7.5)], "m-tcl")], x_label="step", rule=10)
    assert "&lt;losses&gt;" in chart
    path = chart.split('class="line m-tcl" d="M')[1].split('"')[0]
    for x, y in (point.split() for point in path.split("L")):
        assert 0 <= float(x) <= 340
        assert 0 <= float(y) <= 210
