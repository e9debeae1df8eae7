"""Optimiser and learning rate (paper, Sec. 4.1)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import nn


class Plan(Protocol):
    """The numbers of an optimisation; steps 0..last_step are run."""

    @property
    def global_batch(self) -> int: ...
    @property
    def last_step(self) -> int: ...
    @property
    def warmup(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def min_lr(self) -> float: ...
    @property
    def betas(self) -> tuple[float, float]: ...
    @property
    def eps(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip_norm(self) -> float: ...
    @property
    def log_every(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


def adamw(parameters: Iterable[nn.Parameter], plan: Plan) -> torch.optim.AdamW:
    """AdamW without weight decay on 1-d parameters (norms, biases); the 0-d scalars are decayed, as upstream."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim != 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.lr, betas=plan.betas, eps=plan.eps, fused=True)


def learning_rate(step: int, *, peak: float, floor: float, warmup: int, last_step: int) -> float:
    """Linear warm-up from peak * 1e-4, then cosine to `floor` at `last_step`; `floor` from there on."""
    if step < warmup:
        return peak * (1e-4 + (1 - 1e-4) * step / warmup)
    progress = min((step - warmup) / max(last_step - warmup, 1), 1.0)
    return floor + (peak - floor) * (1 + math.cos(math.pi * progress)) / 2
