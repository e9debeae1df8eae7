"""The benchmark of a training step runs, here on a tiny model."""

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
