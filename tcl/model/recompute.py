"""Memory for little time: what is cheap to make again is not kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SMALL = 8 << 20
"""Bytes up to which a tensor is kept all the same: a tenth of a small model's step would go into making them again."""


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), of which the backward pass makes again what it needs, up to the last operation's inputs."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def recomputed_if_large(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), `recomputed` where x, whose size its intermediate results have, is larger than `SMALL`."""
    keep = not torch.is_grad_enabled() or x.nbytes <= SMALL
    return function(x) if keep else recomputed(function, x)
