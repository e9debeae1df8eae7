"""What the losses ask of the masks of all image-text pairs, without ever holding those masks whole.

At B = 64 images and N = 1,024 texts one tensor [B, N, 56, 56] takes 0.8 GB, and autograd would keep many. Here the
masks exist a chunk at a time; the backward pass makes them again, so that memory depends on the size of a chunk alone.
Shapes as in `tcl.model.losses`; b and n are the images and texts of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tcl.model.fused import is_fused
from tcl.model.losses import EPS, cosines_of_pairs, grounded_embeddings, grounded_logits, similarity, total_variation

CHUNK = {"cpu": 1 << 21, "cuda": 1 << 24}
"""Mask cells of one chunk, by device: 8 MB or 64 MB in float32. About eight such tensors exist at a time."""


class Summaries(NamedTuple):
    """All that the losses need of V and of the masks.

    logits: <f_ij, t_j> [B, N]; areas: mean of M_ij [B, N], in [0, 1]; tv_mask: total variation of M_ij, mean over j,
    [B]; tv_image: that of V_i [B]; cosines: S_ii of the positive pairs [B, h, w].
    """

    logits: Tensor
    areas: Tensor
    tv_mask: Tensor
    tv_image: Tensor
    cosines: Tensor


def chunk_summaries(
    features: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, *, hard_pooling: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, areas and total variations, each [b, n], of the masks sigmoid(scale * S + bias).

    hard_pooling: the logits pool features under the masks rounded to 0 or 1.
    """
    masks = torch.sigmoid(scale * similarity(features, texts) + bias)
    logits = grounded_logits(grounded_embeddings(masks.round() if hard_pooling else masks, features), texts)
    return logits, masks.mean(dim=(2, 3)), total_variation(masks)


def add_chunk_gradients(
    d_features: Tensor,
    features: Tensor,
    texts: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    d_logits: Tensor,
    d_areas: Tensor,
    d_variations: Tensor,
    hard_pooling: bool,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of `features` [b, D, h, w] to `d_features`; returns those of `scale` and `bias`.

    The others are the gradients of what `chunk_summaries` returns. Rounding passes gradients on as they are.
    """
    values = features.flatten(2)
    cosines = similarity(features, texts).flatten(2)
    masks = torch.sigmoid(scale * cosines + bias)
    pooling = masks.round() if hard_pooling else masks
    sums = pooling.sum(dim=2, keepdim=True) + EPS
    means = torch.einsum("bnp,bdp->bnd", pooling, values) / sums
    lengths = means.norm(dim=2, keepdim=True)
    units = means / lengths.clamp(min=EPS)

    d_units = d_logits[..., None] * texts
    radial = (units * d_units).sum(dim=2, keepdim=True) * (lengths >= EPS)
    d_pooled = (d_units - radial * units) / (lengths.clamp(min=EPS) * sums)
    add_product(d_features, d_pooled.mT, pooling)

    d_masks = torch.einsum("bnd,bdp->bnp", d_pooled, values).to(masks.dtype)
    d_masks += d_areas[..., None] / masks.shape[2] - (d_pooled * means).sum(dim=2, keepdim=True)
    grid = features.shape[2:]
    add_variation_gradient(d_masks.unflatten(2, grid), masks.unflatten(2, grid), d_variations)
    d_mask_logits = d_masks.mul_(masks).mul_(1 - masks)
    d_scale, d_bias = (d_mask_logits * cosines).sum(), d_mask_logits.sum()
    add_cosine_gradient(d_features, features, texts.expand(len(features), -1, -1), cosines, d_mask_logits.mul_(scale))
    return d_scale, d_bias


def add_cosine_gradient(
    d_features: Tensor, features: Tensor, texts: Tensor, cosines: Tensor, d_cosines: Tensor
) -> None:
    """Add the gradient of V [b, D, h, w] through its cosines [b, n, p] with `texts` [b, n, D]; changes d_cosines."""
    lengths = features.flatten(2).norm(dim=1, keepdim=True)
    bounded = lengths.clamp(min=EPS)
    d_products = d_cosines.div_(bounded)
    add_product(d_features, texts.mT, d_products)
    d_lengths = (d_products * cosines).sum(dim=1, keepdim=True) * (lengths >= EPS)
    d_features.addcmul_((d_lengths / bounded).unflatten(2, features.shape[2:]), features, value=-1)


def add_variation_gradient(d_maps: Tensor, maps: Tensor, d_variations: Tensor) -> None:
    """Add the gradient of `maps` [..., h, w] through `total_variation`, given that of its result [...]."""
    height, width = maps.shape[-2:]
    across = (maps[..., 1:] - maps[..., :-1]).sign_().mul_((d_variations / (height * (width - 1)))[..., None, None])
    d_maps[..., 1:] += across
    d_maps[..., :-1] -= across
    down = (maps[..., 1:, :] - maps[..., :-1, :]).sign_().mul_((d_variations / ((height - 1) * width))[..., None, None])
    d_maps[..., 1:, :] += down
    d_maps[..., :-1, :] -= down


def add_product(d_features: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left [b, D, n] @ right [b, n, p] to `d_features` [b, D, h, w]."""
    total = d_features.flatten(2)
    if torch.is_autocast_enabled(total.device.type):
        total += left @ right
    else:
        total.baddbmm_(left, right)


class Kernels(NamedTuple):
    """The work on one chunk, plain or compiled."""

    summaries: Callable[..., tuple[Tensor, Tensor, Tensor]]
    add_gradients: Callable[..., tuple[Tensor, Tensor]]


EAGER = Kernels(chunk_summaries, add_chunk_gradients)


def summarise(
    features: Tensor,
    texts: Tensor,
    *,
    scale: Tensor,
    bias: Tensor,
    positives: slice,
    hard_pooling: bool = False,
    kernels: Kernels = EAGER,
) -> Summaries:
    """The summaries of V [B, D, h, w] and all texts [N, D], with gradient to all but the texts.

    scale, bias: w and b of the soft mask. positives: which of the texts belong to the images, in their order.
    hard_pooling: see `chunk_summaries`. Where kernels can be fused that is done, unless V is float64, and `kernels` are
    not used.
    """
    if features.dtype != torch.float64 and is_fused(features.device):
        from tcl.model.all_pairs_fused import FusedSummarise

        return Summaries(*FusedSummarise.apply(features, texts, scale, bias, positives, hard_pooling))
    return Summaries(*_Summarise.apply(features, texts, scale, bias, positives, hard_pooling, kernels))


class _Summarise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        positives: slice,
        hard_pooling: bool,
        kernels: Kernels,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(features, texts, scale, bias)
        ctx.positives, ctx.hard_pooling, ctx.kernels = positives, hard_pooling, kernels
        ctx.autocast = _autocast(features.device.type)
        own = texts[positives]
        pairs = features.new_empty((3, len(features), len(texts)), dtype=scale.dtype)
        variations, cosines = [], []
        for images, some in _chunks(features, texts):
            if some.start == 0:
                variations.append(total_variation(features[images]).to(scale.dtype).mean(dim=1))
                cosines.append(cosines_of_pairs(features[images], own[images]))
            summaries = kernels.summaries(features[images], texts[some], scale, bias, hard_pooling=hard_pooling)
            for row, found in zip(pairs, summaries, strict=True):
                row[images, some] = found
        logits, areas, tv_mask = pairs
        return logits, areas, tv_mask.mean(dim=1), torch.cat(variations), torch.cat(cosines)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_logits: Tensor, d_areas: Tensor, d_tv_mask: Tensor, d_tv_image: Tensor, d_cosines: Tensor
    ) -> tuple[Tensor | None, ...]:
        features, texts, scale, bias = ctx.saved_tensors
        own = texts[ctx.positives]
        d_variations = (d_tv_mask / len(texts))[:, None].expand_as(d_logits)
        d_features, d_scale, d_bias = torch.zeros_like(features), torch.zeros_like(scale), torch.zeros_like(bias)
        with ctx.autocast:
            for images, some in _chunks(features, texts):
                part = features[images]
                if some.start == 0:
                    _add_own_gradient(d_features[images], part, own[images], d_tv_image[images], d_cosines[images])
                found = ctx.kernels.add_gradients(
                    d_features[images],
                    part,
                    texts[some],
                    scale,
                    bias,
                    d_logits=d_logits[images, some],
                    d_areas=d_areas[images, some],
                    d_variations=d_variations[images, some],
                    hard_pooling=ctx.hard_pooling,
                )
                d_scale += found[0]
                d_bias += found[1]
        return d_features, None, d_scale, d_bias, None, None, None


def _add_own_gradient(
    d_features: Tensor, features: Tensor, texts: Tensor, d_variations: Tensor, d_cosines: Tensor
) -> None:
    """Add the gradient of V [b, D, h, w] through its own total variation and the cosines with its own text."""
    add_variation_gradient(d_features, features, (d_variations / features.shape[1])[:, None])
    cosines = cosines_of_pairs(features, texts)[:, None].flatten(2)
    add_cosine_gradient(d_features, features, texts[:, None], cosines, d_cosines[:, None].flatten(2).clone())


def _chunks(features: Tensor, texts: Tensor) -> Iterator[tuple[slice, slice]]:
    """Pairs of slices of images and texts, no more than `CHUNK` mask cells (or values of V) each, images outermost."""
    cells, chunk = features[0, 0].numel(), CHUNK[features.device.type]
    columns = min(max(chunk // cells, 1), len(texts))
    rows = max(chunk // (cells * max(columns, features.shape[1])), 1)
    for row in range(0, len(features), rows):
        for column in range(0, len(texts), columns):
            yield slice(row, row + rows), slice(column, column + columns)


def _autocast(device: str) -> torch.autocast:
    """The autocast that is in force, to be entered again."""
    enabled = torch.is_autocast_enabled(device)
    return torch.autocast(device, torch.get_autocast_dtype(device) if enabled else None, enabled=enabled)
