"""The batch is the method's: any number of processes and micro-batches gives the same losses and gradients."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .ranks import on_ranks
from .small import Small
from .workplace import finish, make


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


@pytest.mark.slow
def test_rounding_stays_small_over_hundreds_of_steps(tmp_path: Path) -> None:
    """The figures of docs/training.md."""
    layouts = {"1": {}, "2": {"TCL_PROCESSES": "2"}, "in parts": {"TCL_MICRO_BATCH": "2"}}
    weights, losses = {}, {}
    for name, layout in layouts.items():
        folder = make(tmp_path / name, last_step=399, decoder_only_steps=200)
        finish(folder, **{"TCL_PROCESSES": "1", **layout})
        learned = load_file(folder / "weights/tcl.safetensors").items()
        weights[name] = torch.cat([w.flatten() for key, w in learned if not key.startswith("clip.")])
        with open(folder / "curves/tcl.csv", newline="") as file:
            losses[name] = [float(row["total"]) for row in csv.DictReader(file)]
    for name in ("2", "in parts"):
        assert float((weights[name] - weights["1"]).norm() / weights["1"].norm()) < 5e-3
        assert losses[name] == pytest.approx(losses["1"], rel=2e-2)
