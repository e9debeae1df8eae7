"""Memory for little time: what is cheap to make again is not kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SMALL = 512 << 10
"""Bytes an image up to which a tensor is kept: the demo's model would spend a tenth of a step on making them again."""


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), of which the backward pass makes again what it needs, up to the last operation's inputs."""
    if not torch.is_grad_enabled():
        return function(*inputs)
    result: Tensor = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return result


def recomputed_if_large(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), x [B, ...]; `recomputed` where x, whose size its intermediate results have, is not `SMALL`."""
    keep = not torch.is_grad_enabled() or x[0].numel() * x.element_size() <= SMALL
    return function(x) if keep else recomputed(function, x)
