"""The benchmarks' harness: what a row holds, what is kept, what a second run compares. No durations are judged."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu_time import REST, GpuTime, kind
from benchmarks.measure import Case, Measured, Speed, compare, held, measure
from benchmarks.results import COLUMNS, gpu_times, header, machine, read, row, save
from tcl.errors import TCLError
from tcl.inference.pamr import pamr
from tests.plain.pamr import pamr as plain_pamr


@pytest.fixture(scope="module")
def speed() -> Speed:
    return Speed()


def squares(size: int = 1000) -> torch.Tensor:
    return torch.arange(float(size)).square()


def test_a_case_is_measured(speed: Speed) -> None:
    case = Case("squares", "1000", squares, lambda: squares() + 0.5, flops=1e3, moved=4e3, line="squares", count=1000)
    found = measure(case, speed, budget=0.01)
    assert found.plain_seconds is not None
    assert found.ratio is not None
    assert min(found.seconds, found.plain_seconds, found.ratio) > 0
    assert found.difference == 0.5
    assert found.bound in ("FLOPs", "bytes")
    assert found.of_bound == pytest.approx(max(1e3 / speed.flops(torch.float32), 4e3 / speed.copy) / found.seconds)
    assert 2 <= found.pairs <= 25
    alone = measure(Case("squares", "1000", squares, None), speed, budget=0.01)
    assert {alone.plain_seconds, alone.ratio, alone.difference, alone.bound} == {None}


def test_memory_is_the_peak_beyond_what_was_held() -> None:
    kept = torch.ones(4 << 20)

    def work() -> torch.Tensor:
        for _ in range(12):
            large = torch.ones(8 << 20)
        return large[:1].clone() + kept[0]

    runs = [held(work) for _ in range(3)]
    assert all(duration > 0 and result == 2 for _, duration, result in runs)
    known = [memory for memory, _, _ in runs if memory is not None]  # some systems do not say
    if known:  # what else happens in the process counts too
        assert (32 << 20) * 0.9 < min(known) < (32 << 20) * 4


def test_differences() -> None:
    assert compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])) == 0.5
    assert compare(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5])) == 0.25
    assert compare(torch.ones(1), None) is None


def test_a_table_is_kept_and_compared(tmp_path: Path, speed: Speed) -> None:
    rows = [
        Measured("work", f"{n} items", 0.5 * n, 2.0 * n, 4.0, 1 << 20, 3 << 20, 1e-6, 0.5, "bytes", 3, "work", n)
        for n in (1, 2)
    ]
    path = tmp_path / "results" / "cpu.json"
    assert read(path) is None
    save(path, rows, machine(speed))
    saved = read(path)
    assert saved is not None
    assert "as a multiple of this one." in header(machine(speed), saved)
    assert "measured on another" in header(
        machine(speed), saved | {"machine": saved["machine"] | {"device": "another"}}
    )
    line = row(rows[1], saved)
    assert line.count("|") == len(COLUMNS) + 1
    assert line.endswith("| 1.00 |")
    assert row(rows[0]) in path.with_suffix(".md").read_text()
    assert path.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize("text", ['{"cases": [', "[]", '{"cases": [{"name": "PAMR"}]}'])
def test_a_damaged_table_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(TCLError, match=r"cpu\.json is no table .* delete it"):
        read(path)


def test_the_results_that_are_timed_are_compared(speed: Speed) -> None:
    image, masks = torch.rand(1, 3, 32, 32), torch.rand(1, 4, 16, 16)
    both = [lambda work=work: work(image, masks, iterations=3, dilations=(1, 2)) for work in (pamr, plain_pamr)]
    assert (measure(Case("PAMR", "tiny", both[0], both[1]), speed, budget=0.01).difference or 0) < 1e-5


def test_what_a_gpus_time_goes_to() -> None:
    kinds = {
        "_iterate": "fused kernels",
        "masks_gradient_kernel": "fused kernels",
        "nvjet_sm90_tst_128x72": "matrix products",
        "sm90_xmma_dgrad_implicit_gemm": "convolutions",
        "vectorized_elementwise_kernel": REST,
    }
    assert {name: kind(name) for name in kinds} == kinds
    seen = GpuTime(0.3, 12, {"attention": 0.9, "sums": 0.08, REST: 0.02})
    row = Measured("work", "1 item", 0.5, None, None, None, None, None, None, None, 3, None, None)
    told = gpu_times([row, replace(row, gpu=seen)])
    assert told[-1] == "| work | 1 item | 60% of the time | 12 | attention 90%, sums 8% |"
    assert len(told) == 4
    assert gpu_times([row]) == []
