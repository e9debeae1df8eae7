"""TCL's losses (paper, Sec. 3.3 and 3.4), as pure functions of tensors.

Shapes: B images on this rank, N texts of all ranks (this rank's own texts are `positives`, a slice of length B),
D embedding width, h w the mask grid. Every loss is the mean over this rank; the objective is the mean of that over
ranks, so gradients are averaged over ranks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Gather = Callable[[Tensor], Tensor]
"""Concatenate a tensor [B, ...] of all ranks along the first dimension, in rank order, with gradient."""

EPS = 1e-6
"""Guards the division in cosine similarities and in the masked mean."""


def normalise(x: Tensor, dim: int = -1) -> Tensor:
    """x / max(|x|, 1e-6) along `dim`."""
    return F.normalize(x, dim=dim, eps=EPS)


def similarity(features: Tensor, texts: Tensor) -> Tensor:
    """Cosine S of every pair at every mask cell: [B, N, h, w]; features V [B, D, h, w], texts [N, D], normalised."""
    products = torch.einsum("bdhw,nd->bnhw", features, texts)
    return products / features.norm(dim=1, keepdim=True).clamp(min=EPS)


def cosines_of_pairs(features: Tensor, texts: Tensor) -> Tensor:
    """Cosine S_ii at every mask cell of the pairs (V_i, t_i): [B, h, w]; features V [B, D, h, w], texts [B, D]."""
    return torch.einsum("bdhw,bd->bhw", features, texts) / features.norm(dim=1).clamp(min=EPS)


def info_nce(
    logits: Tensor, positives: slice, *, log_scale: Tensor, gather: Gather, text_logits: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE over cosine similarities: the mean of two cross-entropies.

    logits: [B, N], image i against every text, in [-1, 1], not yet scaled; log_scale: learnable scalar, exp() capped
    at 100. This rank's images are classified among all texts, its texts among the images of all ranks, by the same
    logits or by `text_logits` [B, N].
    """
    scale = log_scale.exp().clamp(max=100.0)
    labels = torch.arange(positives.start, positives.stop, device=logits.device)
    over_texts = F.cross_entropy(logits * scale, labels)
    columns = gather(logits if text_logits is None else text_logits)[:, positives].T
    return (over_texts + F.cross_entropy(columns * scale, labels)) / 2


def grounded_embeddings(masks: Tensor, features: Tensor) -> Tensor:
    """The text-grounded image embedding of every pair, of length 1: [B, N, D].

    masks: M [B, N, h, w] in [0, 1]; features: V [B, D, h, w], not normalised.
    f_ij = sum_p M_ij V_i / (sum_p M_ij + 1e-6).
    """
    pooled = torch.einsum("bnp,bdp->bnd", masks.flatten(2), features.flatten(2))
    return normalise(pooled / (masks.flatten(2).sum(-1, keepdim=True) + EPS))


def grounded_logits(grounded: Tensor, texts: Tensor) -> Tensor:
    """<f_ij, t_j> of every pair: [B, N]; grounded: [B, N, D] and texts [N, D], both of length 1."""
    return (grounded * texts).sum(dim=-1)


def upstream_text_logits(grounded: Tensor, texts: Tensor) -> Tensor:
    """What the official code compares texts with on several GPUs, for reproducing it: [B, N].

    grounded: [B, B, D], this rank's images and texts. A text of another GPU meets image i pooled by the mask of *this*
    GPU's text at the same place in the batch, not by its own. With one group it is `grounded_logits`.
    """
    groups = texts.unflatten(0, (-1, grounded.shape[1]))
    return torch.einsum("bkd,wkd->bwk", grounded, groups).flatten(1)


def area(areas: Tensor, prior: float, *, group: int) -> Tensor:
    """|mean area - prior|, with means over groups of `group` consecutive images, averaged over the groups.

    areas: [N], each image's mask area as a share of the image, in [0, 1]. One group holds the global batch; upstream's
    groups are the ranks.
    """
    return (areas.view(-1, group).mean(dim=1) - prior).abs().mean()


def total_variation(x: Tensor) -> Tensor:
    """Mean absolute difference of horizontal neighbours plus that of vertical ones: [..., h, w] -> [...]."""
    across = (x[..., 1:] - x[..., :-1]).abs_().mean(dim=(-2, -1))
    return across + (x[..., 1:, :] - x[..., :-1, :]).abs_().mean(dim=(-2, -1))


def straight_through_mask(logits: Tensor, uniform: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Gumbel-sigmoid hard mask in {0, 1} with the gradient of the noisy sigmoid (paper, Sec. 3.3).

    logits: w*S + b of the positive pairs [B, h, w]; uniform: draws u in [0, 1) of the same shape, turned into logistic
    noise log(u / (1 - u)).
    """
    noisy = torch.sigmoid((logits + torch.log(uniform / (1 - uniform))) / temperature)
    hard = (noisy > 0.5).to(noisy.dtype)
    return hard + (noisy - noisy.detach())
