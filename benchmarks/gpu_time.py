"""What a GPU's time goes to, by torch's profiler."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

KINDS = {
    "convolutions": "fprop|dgrad|wgrad|conv",
    "attention": "fmha|sdpa|flash|attention",
    "matrix products": "gemm|nvjet|cutlass|gemv|splitk",
    "fused kernels": "masks_|features_|_affinity|_iterate",
    "norms": "layer_?norm",
    "resizing": "upsample",
    "sums": "reduce",
    "transfers": "memcpy|memset",
}
"""Kinds of kernels by what their names hold, the first one that fits."""

REST = "elementwise and others"


class GpuTime(NamedTuple):
    """busy: seconds in which kernels run; kernels: how many; shares: of the busy time by kind, the largest first."""

    busy: float
    kernels: int
    shares: dict[str, float]


def gpu_time(work: Callable[[], Any]) -> GpuTime:
    """Profile a second run."""
    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    kernels = [each for each in found.key_averages() if each.device_type.name == "CUDA"]
    seconds: Counter[str] = Counter()
    for each in kernels:
        seconds[kind(each.key)] += each.self_device_time_total / 1e6
    busy = sum(seconds.values())
    shares = {name: duration / busy for name, duration in seconds.most_common()}
    return GpuTime(busy, sum(each.count for each in kernels), shares)


def kind(kernel: str) -> str:
    """A key of `KINDS`, or `REST`."""
    return next((name for name, pattern in KINDS.items() if re.search(pattern, kernel.lower())), REST)
