"""How a case is measured: ours and the plain reference in turn, on the same threads, in one process."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu_time import GpuTime
from tcl.training.meter import matrix_peak

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISIONS = (torch.float32, torch.bfloat16) if DEVICE.type == "cuda" else (torch.float32,)
"""In which the same cases are measured."""

Work = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """Something to time; whatever it needs is prepared before.

    ours, plain: do the same work, the second as a good plain PyTorch program does it; None where there is nothing to
    compare with. If both give a tensor, the two are compared. flops: floating-point operations of ours, two a
    multiply-add. moved: bytes that ours must read and write at least. dtype: in which the operations are done.
    line, count: cases of one line, "<what> by <what is counted>", are drawn over their count, to show how the time
    grows with it. floor: the opponent does less and cannot be beaten; what ours adds to its time is told, and no ratio.
    """

    name: str
    size: str
    ours: Work
    plain: Work | None
    flops: float | None = None
    moved: float | None = None
    dtype: torch.dtype = torch.float32
    line: str | None = None
    count: int | None = None
    floor: bool = False


@dataclass(frozen=True)
class Measured:
    """One row of the table.

    seconds, plain_seconds: medians over the pairs. ratio: median of plain / ours over the pairs. added: median of
    ours - plain in seconds, instead of the ratio where the opponent cannot be beaten. memory, plain_memory: the most
    bytes held beyond those held before. difference: the largest between the results, of integer ones the share that
    differs. of_bound: the shortest time that the device's speed allows, as a share of ours; bound: what sets it. gpu:
    what a GPU's time goes to.
    """

    name: str
    size: str
    seconds: float
    plain_seconds: float | None
    ratio: float | None
    memory: int | None
    plain_memory: int | None
    difference: float | None
    of_bound: float | None
    bound: str | None
    pairs: int
    line: str | None
    count: int | None
    added: float | None = None
    gpu: GpuTime | None = None


class Speed:
    """What this device reaches: FLOP/s in large matrix products or convolutions by dtype, bytes/s in copying."""

    def __init__(self) -> None:
        self.matrix: dict[torch.dtype, float] = {}
        self.copy = copy_rate(DEVICE)
        self.flops(torch.float32)

    def flops(self, dtype: torch.dtype) -> float:
        """FLOP/s in matrix products or convolutions, whichever are faster here, the best of several tries.

        A GPU's convolutions in float32 are not asked: they are in TF32, which is another arithmetic.
        """
        if dtype not in self.matrix:
            peaks = [matrix_peak]
            if (DEVICE.type, dtype) != ("cuda", torch.float32):
                peaks.append(convolution_peak)
            self.matrix[dtype] = max(peak(DEVICE, dtype) for _ in range(5) for peak in peaks)
        return self.matrix[dtype]

    def bound(self, case: Case) -> tuple[float, str] | None:
        """The shortest time of a case in seconds, and what sets it: FLOPs or bytes."""
        times = []
        if case.flops is not None:
            times.append((case.flops / self.flops(case.dtype), "FLOPs"))
        if case.moved is not None:
            times.append((case.moved / self.copy, "bytes"))
        return max(times, default=None)


def convolution_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some convolutions of 768 channels, as the decoder has them."""
    batch, channels, side = 64 if device.type == "cuda" else 2, 768, 28
    images = torch.randn(batch, channels, side, side, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    work = torch.no_grad()(lambda: F.conv2d(images, kernel, padding=1))
    durations = [timed(work)[0] for _ in range(5)]
    return 2 * 9 * channels**2 * batch * side**2 / min(durations)


def copy_rate(device: torch.device) -> float:
    """Bytes a second, read and written, of the fastest of some large copies."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    durations = [timed(lambda: target.copy_(source))[0] for _ in range(8)]
    return 2 * source.nbytes / min(durations)


def measure(case: Case, speed: Speed, *, budget: float) -> Measured:
    """Run a case once for its memory and result, then in pairs until `budget` seconds are spent.

    At least three pairs, or two if these take long. The first run allocates and fills caches: it counts as a pair where
    that is a small part of it, because it takes longer than the budget.
    """
    began = time.perf_counter()
    memory, took, result = held(case.ours)
    own = [took]
    plain: list[float] = []
    plain_memory, difference = None, None
    if case.plain is not None:
        plain_memory, took, expected = held(case.plain)
        plain.append(took)
        difference = compare(result, expected)
        del expected
    del result
    if sum(own + plain) < budget:
        own, plain = [], []
    while len(own) < 25:
        spent = (time.perf_counter() - began) / budget
        if (len(own) >= 3 and spent > 1) or (len(own) >= 2 and spent > 2):
            break
        own.append(timed(case.ours)[0])
        if case.plain is not None:
            plain.append(timed(case.plain)[0])
    seconds, bound = median(own), speed.bound(case)
    pairs = list(zip(own, plain, strict=True)) if plain else []
    beatable, floor = ([], pairs) if case.floor else (pairs, [])
    return Measured(
        name=case.name,
        size=case.size,
        seconds=seconds,
        plain_seconds=median(plain) if plain else None,
        ratio=median(theirs / ours for ours, theirs in beatable) if beatable else None,
        memory=memory,
        plain_memory=plain_memory,
        difference=difference,
        of_bound=bound[0] / seconds if bound else None,
        bound=bound[1] if bound else None,
        pairs=len(own),
        line=case.line,
        count=case.count,
        added=median(ours - theirs for ours, theirs in floor) if floor else None,
    )


def within(dtype: torch.dtype, work: Work) -> Work:
    """The work under autocast, unless dtype is float32."""
    half = dtype != torch.float32

    def run() -> Any:
        with torch.autocast(DEVICE.type, dtype if half else None, enabled=half):
            return work()

    return run


def suffix(dtype: torch.dtype) -> str:
    """What tells a case in half precision from the same in float32."""
    return "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"


def timed(work: Work) -> tuple[float, Any]:
    """Duration in seconds, and the result; a GPU is waited for."""
    synchronise()
    began = time.perf_counter()
    result = work()
    synchronise()
    return time.perf_counter() - began, result


def held(work: Work) -> tuple[int | None, float, Any]:
    """The most bytes that the work holds beyond those held before it, its result included; its duration; the result.

    On a GPU as its allocator counts them, else of the whole process; None where the system does not say.
    """
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        duration, result = timed(work)
        return torch.cuda.max_memory_allocated() - before, duration, result
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that was freed but not given back would hide what is used
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None, *timed(work)
    before = _peak_resident()
    duration, result = timed(work)
    return _peak_resident() - before, duration, result


def _peak_resident() -> int:
    """The most bytes resident since the peak was last reset."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def compare(ours: Any, plain: Any) -> float | None:
    """The largest difference of two tensors, of integer ones the share that differs; None if they are none."""
    if not isinstance(ours, Tensor) or not isinstance(plain, Tensor):
        return None
    if not ours.dtype.is_floating_point:
        return float((ours != plain).double().mean())
    return float((ours.double() - plain.double()).abs().max())


def synchronise() -> None:
    """Wait for what a GPU has been given to do."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
