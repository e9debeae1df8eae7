"""The processes that share one job: who this one is, and what they say to each other."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tcl.errors import TCLError
from tcl.processes import die_with_parent

CPU = torch.device("cpu")
TIMEOUT = 600.0
"""Seconds that a rank waits for the others before it fails."""


@contextmanager
def _answered() -> Iterator[None]:
    """Turn what torch raises when another rank is lost into a TCLError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise TCLError(
            f"Another process of this job does not answer: it has ended or hangs ({reason}). Its own message, if there "
            "is one, says why. Run again to go on from the last checkpoint."
        ) from error


class _Gather(torch.autograd.Function):
    """All-gather along the first dimension; backward sums the gradients of all ranks and keeps this rank's part."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.length = rank, len(local)
        parts = [torch.empty_like(local) for _ in range(size)]
        with _answered():
            dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = gradients[0].clone()
        with _answered():
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
        with _answered():
            dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def collect(self, value: Any) -> list[Any]:
        """The picklable values of all ranks, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with _answered():
            dist.all_gather_object(values, value)
        return values

    def share(self, value: Any) -> Any:
        """The first rank's picklable value, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        with _answered():
            dist.broadcast_object_list(values, src=0, device=self.device)
        return values[0]

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give tensors the first rank's values, in place."""
        if self.size > 1:
            with _answered():
                for tensor in tensors:
                    dist.broadcast(tensor, src=0)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            with _answered():
                dist.barrier()


def current_ranks(device: torch.device) -> Ranks:
    """The ranks of torch.distributed's default group if it has been set up, else one process alone."""
    if dist.is_available() and dist.is_initialized():
        return Ranks(dist.get_rank(), dist.get_world_size(), device)
    return Ranks(device=device)


@contextmanager
def joined_ranks(timeout: float = TIMEOUT) -> Iterator[Ranks]:
    """Join the processes that torchrun started (NCCL on GPUs, gloo elsewhere); one process alone without torchrun.

    timeout: seconds that a rank waits for the others before it fails. Raises TCLError if there are not enough GPUs.
    """
    if "LOCAL_RANK" in os.environ:  # torchrun's workers live in sessions of their own
        die_with_parent(signal.SIGKILL)
    device = _device(int(os.environ.get("LOCAL_RANK", 0)))
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield Ranks(device=device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    yield Ranks(dist.get_rank(), size, device)
    # Not after an error, when others may not answer. Gloo's threads drop the tensors of the last collective late, for
    # which they need Python: without a moment's wait some processes would end in std::terminate while it shuts down.
    dist.barrier()
    dist.destroy_process_group()


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return CPU
    if local_rank >= torch.cuda.device_count():
        raise TCLError(
            f"TCL_PROCESSES: there must not be more processes than GPUs; this machine has {torch.cuda.device_count()}."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
