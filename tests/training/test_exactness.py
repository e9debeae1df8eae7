"""The batch is the method's: any number of processes and micro-batches gives the same losses and gradients."""

from pathlib import Path

import pytest

from .ranks import on_ranks
from .small import Small


@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-9), (False, 1e-4)], ids=["float64", "float32"])
def test_processes_and_micro_batches_change_nothing(
    double: bool, tolerance: float, shards: Path, tmp_path: Path
) -> None:
    layouts = {"1": (1, None), "1 in 4 parts": (1, 2), "1 in uneven parts": (1, 3), "2": (2, None), "4": (4, 1)}
    found = {}
    for name, (count, micro_batch) in layouts.items():
        training = Small(shards, tmp_path / name, double=double, micro_batch=micro_batch)
        found[name] = on_ranks(count, training)[0]
    whole = found.pop("1")
    assert len(whole["rows"]) == len(whole["gradients"]) == 20
    blocks = [sum(name.startswith("grounder.blocks") for name in step) for step in whole["gradients"]]
    assert blocks[:10] == [0] * 10
    assert all(blocks[10:])
    for name, other in found.items():
        for row, other_row in zip(whole["rows"], other["rows"], strict=True):
            assert other_row == pytest.approx(row, rel=tolerance, abs=tolerance), name
        for step, other_step in zip(whole["gradients"], other["gradients"], strict=True):
            assert step.keys() == other_step.keys()
            for parameter, gradient in step.items():
                scale = float(gradient.norm()) + 1e-3
                assert float((other_step[parameter] - gradient).norm()) <= tolerance * scale, (name, parameter)
