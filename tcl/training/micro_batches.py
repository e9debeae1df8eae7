"""Gradient caching: the exact gradient of a loss that couples all images of a batch, with a few images at a time.

After Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Rows = tuple[Tensor, ...]
"""What the losses need of some images: tensors [b, ...], one row an image."""


@dataclass(frozen=True)
class Parts:
    """A batch in parts. rows: of part k, a function of its images alone; terms: the loss terms of the whole batch's."""

    count: int
    rows: Callable[[int], Rows]
    terms: Callable[[Rows], dict[str, Tensor]]


def backward(parts: Parts, backward_from: Callable[[Tensor], None] = torch.Tensor.backward) -> dict[str, Tensor]:
    """Add the gradients of `total` to the parameters, by calling `backward_from(total)`; returns the loss terms.

    With more than one part: all rows without a graph, the gradient of the loss with respect to them, then the rows of
    each part again, with a graph through which that gradient goes back.
    """
    if parts.count == 1:
        terms = parts.terms(parts.rows(0))
        backward_from(terms["total"])
        return terms
    with torch.no_grad():
        collected = [parts.rows(part) for part in range(parts.count)]
    lengths = [len(rows[0]) for rows in collected]
    whole = tuple(torch.cat(column).requires_grad_() for column in zip(*collected, strict=True))
    terms = parts.terms(whole)
    backward_from(terms["total"])
    used = [(i, column.grad.split(lengths)) for i, column in enumerate(whole) if column.grad is not None]
    for part in range(parts.count):
        rows = parts.rows(part)
        torch.autograd.backward([rows[i] for i, _ in used], [gradients[part] for _, gradients in used])
    return terms
