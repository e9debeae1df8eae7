"""What a machine may choose changes results by rounding alone; half precision stays near."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tcl.commands.machine import machine
from tcl.errors import TCLError
from tcl.model.ranks import Ranks
from tcl.training.machine import Machine, prepare
from tcl.training.precision import Precision

from .small import Small
from .test_survival import Killed


def step(workplace: Path, layout: Machine, precision: str = "float32") -> tuple[dict[str, float], dict[str, Any]]:
    """Loss terms and gradients of a step in the second phase."""
    small = Small(workplace, Path("unused"), micro_batch=layout.micro_batch)
    task = small.task(Ranks())
    prepare(task.model, layout)
    task.begin(15)
    terms = task.backward(small.batches(Ranks())[15], 15, Precision(precision, torch.device("cpu")))
    gradients = {name: p.grad for name, p in task.parameters.items() if p.grad is not None}
    return {name: float(value.detach()) for name, value in terms.items()}, gradients


def assert_near(found: Any, expected: Any, tolerance: float) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance, abs=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert float((found[1][name] - gradient).norm()) <= tolerance * (float(gradient.norm()) + 1e-2), name


@pytest.mark.parametrize(
    "layout",
    [
        Machine(recompute=True),
        Machine(channels_last=True),
        Machine(recompute=True, channels_last=True, micro_batch=3),
        pytest.param(Machine(compiled=True), marks=pytest.mark.slow),
        pytest.param(Machine(compiled=True, recompute=True, micro_batch=4), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_layouts_give_the_same(layout: Machine, shards: Path) -> None:
    assert_near(step(shards, layout), step(shards, Machine()), 1e-4)


def kept_bytes(work: Callable[[], Any]) -> tuple[Any, int]:
    """What `work` returns, and the bytes of all that autograd was given to keep for it, whenever and however often."""
    kept: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return work(), sum(kept)


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_what_is_large_is_made_again_to_the_bit(
    micro_batch: int | None, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Machine(micro_batch=micro_batch)
    small, all_of_it = kept_bytes(lambda: step(shards, layout))
    monkeypatch.setattr("tcl.model.recompute.SMALL", 0)
    large, some = kept_bytes(lambda: step(shards, layout))
    assert large[0] == small[0]
    assert all(torch.equal(gradient, small[1][name]) for name, gradient in large[1].items())
    assert some < 0.8 * all_of_it


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_bfloat16_stays_near(micro_batch: int | None, shards: Path) -> None:
    assert_near(step(shards, Machine(micro_batch=micro_batch), "bfloat16"), step(shards, Machine()), 0.15)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_and_goes_on_exactly(precision: str, shards: Path, tmp_path: Path) -> None:
    single = Small(shards, tmp_path / "single")(Ranks())["rows"]
    half = Small(shards, tmp_path / "half", precision=precision)(Ranks())
    assert half["rows"][-1]["skipped"] < 8  # float16: until the loss scale has come down
    assert half["rows"][-1]["total"] == pytest.approx(single[-1]["total"], rel=0.1)
    stopped = Small(shards, tmp_path / "stopped", precision=precision, meddle=Killed(0, 12, signal.SIGTERM))
    with pytest.raises(TCLError, match="asked to stop"):
        stopped(Ranks())
    again = Small(shards, tmp_path / "stopped", precision=precision)(Ranks())
    assert again["rows"] == half["rows"]


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {
        "TCL_MICRO_BATCH": "64",
        "TCL_COMPILE": "1",
        "TCL_WORKERS": "0",
        "TCL_TIMEOUT": "5",
    }.items():
        monkeypatch.setenv(variable, value)
    assert machine() == Machine(micro_batch=64, compiled=True, workers=0, timeout=5)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("TCL_MICRO_BATCH", "0"), ("TCL_COMPILE", "yes"), ("TCL_WORKERS", "-1"), ("TCL_TIMEOUT", "x")],
)
def test_a_malformed_variable_is_named(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(TCLError, match=f"{variable} must be .* got '{value}'"):
        machine()
