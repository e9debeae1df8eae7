"""The benchmark of a training step runs, here on a tiny model; the step on paper is what the page says."""

import subprocess
import sys

import pytest

from .workplace import ROOT, environment


@pytest.mark.slow
def test_the_benchmark_prints_a_row_a_batch() -> None:
    command = [sys.executable, "-m", "benchmarks.training", "--model", "tiny", "--batches", "4", "8", "--repeats", "1"]
    variables = environment(ROOT, TCL_MICRO_BATCH="4")
    told = subprocess.run(command, cwd=ROOT, env=variables, check=True, capture_output=True, text=True).stdout
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith(("| 4 ", "| 8 "))]
    assert [row[0] for row in rows] == ["| 4", "| 8"]
    assert all(row[1] == "4" and float(row[3]) > 0 for row in rows)


@pytest.mark.slow
def test_the_arithmetic_on_the_page() -> None:
    command = [sys.executable, "-m", "benchmarks.training_on_paper"]
    told = subprocess.run(command, cwd=ROOT, env=environment(ROOT), check=True, capture_output=True, text=True).stdout
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in told.splitlines() if line.startswith("| ")]
    assert len(rows) == 8
    for part, operations, milliseconds, *_ in rows:  # bytes vary with torch's version
        assert f"{part} | {operations} | {milliseconds} |" in page
    assert "1257 pairs/s, 51.2 M pairs in 11.3 hours" in told
