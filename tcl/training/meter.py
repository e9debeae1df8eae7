"""How fast a training runs, how well it uses the machine, and when it will end."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

WARM_UP = 3
"""Steps after a start that say nothing about the speed: memory is allocated, workers start."""


class Meter:
    """Counts from one reading to the next.

    flops_per_pair: of a step. steps: those to run. pairs: of a global batch, shared by `ranks` processes. peak: FLOP/s
    that one device reaches in matrix products; a training that is faster shows that these were disturbed, and sets it.
    """

    def __init__(
        self, flops_per_pair: Callable[[int], float], steps: range, *, pairs: int, ranks: int, peak: float
    ) -> None:
        self.flops_per_pair, self.pairs, self.ranks, self.peak = flops_per_pair, pairs, ranks, peak
        self._left = sum(flops_per_pair(step) for step in steps)
        self._done = 0.0  # FLOPs of a pair, since the warm-up
        self._warm = steps.start + WARM_UP
        self._began = self._read = time.monotonic()
        self._steps, self._flops, self._waited = 0, 0.0, 0.0

    def waited(self, seconds: float) -> None:
        """Count time in which a step waited for its data."""
        self._waited += seconds

    def count(self, step: int) -> None:
        """Count a finished step."""
        flops = self.flops_per_pair(step)
        self._steps += 1
        self._flops += flops
        self._left -= flops
        if step >= self._warm:
            self._done += flops
        else:
            self._began = time.monotonic()

    def remaining(self) -> float | None:
        """Seconds to the end, if the arithmetic that is left takes as long as that since the start; None at first."""
        if not self._done:
            return None
        return (time.monotonic() - self._began) * self._left / self._done

    def read(self) -> dict[str, float]:
        """Pairs a second, share of time spent waiting for data, TFLOP/s of each device and their share of the peak.

        Since the last reading; on a GPU also the most memory used so far, in GB.
        """
        now = time.monotonic()
        seconds = max(now - self._read, 1e-9)
        rate = self._flops * self.pairs / self.ranks / seconds
        self.peak = max(self.peak, rate)
        values = {
            "pairs_per_second": self._steps * self.pairs / seconds,
            "data_wait": self._waited / seconds,
            "tflops": rate / 1e12,
            "mfu": rate / self.peak,
        }
        if torch.cuda.is_available():
            values["gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
        self._read, self._steps, self._flops, self._waited = now, 0, 0.0, 0.0
        return values


def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some large matrix products on this device; takes a tenth of a second.

    The training's own random numbers are left alone.
    """
    size, repeats = 8192 if device.type == "cuda" else 512, 20
    matrix = torch.randn(size, size, generator=torch.Generator(device).manual_seed(0), device=device).to(dtype)
    result = matrix @ matrix
    durations = []
    for _ in range(repeats):
        _synchronise(device)
        began = time.perf_counter()
        torch.mm(matrix, matrix, out=result)
        _synchronise(device)
        durations.append(time.perf_counter() - began)
    return 2 * size**3 / min(durations)


def in_words(row: dict[str, float], speed: dict[str, float], remaining: float | None) -> str:
    """One line on where a training stands; row: losses and the like, speed: from `Meter.read`, remaining: seconds."""
    parts = [] if remaining is None else [f"ends in {clock(remaining)}"]
    parts.append(f"{speed['pairs_per_second']:.0f} pairs/s")
    parts.append(f"waits {speed['data_wait']:.0%}")
    parts.append(f"{speed['tflops']:.3g} TFLOP/s ({speed['mfu']:.0%} of peak)")
    if "gpu_gb" in speed:
        parts.append(f"{speed['gpu_gb']:.1f} GB")
    parts.append(" ".join(f"{name} {value:.3g}" for name, value in row.items() if name != "step"))
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """A duration as h:mm:ss."""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
