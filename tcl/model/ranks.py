"""The processes that share one job: who this one is, and what they say to each other."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")
TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others before the job ends with an error."""


class _Gather(torch.autograd.Function):
    """All-gather along the first dimension; backward sums the gradients of all ranks and keeps this rank's part."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.length = rank, len(local)
        parts = [torch.empty_like(local) for _ in range(size)]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total[ctx.rank * ctx.length : (ctx.rank + 1) * ctx.length], None, None


@dataclass(frozen=True)
class Ranks:
    """This process's place among those that share the work; the default is one process alone."""

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """True in the one process that writes files and talks to the user."""
        return self.rank == 0

    def gather(self, local: Tensor) -> Tensor:
        """Tensors [B, ...] of equal shape -> [B * size, ...] in rank order, with gradient (summed over ranks)."""
        return local if self.size == 1 else _Gather.apply(local, self.rank, self.size)

    def positions(self, length: int) -> slice:
        """Where this rank's `length` rows lie in a gathered tensor."""
        return slice(self.rank * length, (self.rank + 1) * length)

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors of one dtype by their mean over ranks, in place, with one flat all-reduce."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def collect(self, value: Any) -> list[Any]:
        """The picklable values of all ranks, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()


def current_ranks(device: torch.device) -> Ranks:
    """The ranks of torch.distributed's default group if it has been set up, else one process alone."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size(), device)
    return Ranks(device=device)


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started (NCCL on GPUs, gloo elsewhere); one process alone without torchrun."""
    _die_with_parent()
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Ranks(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), size, device)
        # Gloo's threads drop the tensors of the last collective late, for which they need Python: without a moment's
        # wait some processes would end in std::terminate while Python shuts down.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _die_with_parent() -> None:
    """Ask Linux to end this rank when its launcher dies: torchrun's workers live in sessions of their own."""
    if sys.platform == "linux" and "LOCAL_RANK" in os.environ:
        set_death_signal = 1
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)
