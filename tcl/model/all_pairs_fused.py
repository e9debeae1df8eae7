"""`tcl.model.all_pairs` on a GPU: all but the matrix products is fused, so that each map is read and written once.

Products of V and texts, and of V and masks, are left to cuBLAS. Maps have the products' dtype, sums are float32.
Shapes as in `tcl.model.all_pairs`; P are the cells h * w, and V is laid out [B, P, D], as the grounder makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from tcl.model.all_pairs_kernels import features_gradient_kernel, features_kernel, masks_gradient_kernel, masks_kernel
from tcl.model.losses import EPS, normalise

CHUNK = 1 << 25
"""Mask cells of one chunk: 64 MB in bfloat16. Three such maps exist at a time."""

ROW, CELLS, VECTORS = 256, 256, 4
"""Cells that one program takes at once: of a mask, of masks for their gradient, of V."""

SEGMENTS = 16
"""Parts of the texts whose gradients are summed apart, for enough programs to fill a GPU."""


class FusedSummarise(torch.autograd.Function):
    """`tcl.model.all_pairs.summarise` of V [B, D, h, w] on a GPU, in float32, bfloat16 or float16."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, positives: slice, hard_pooling: bool
    ) -> tuple[Tensor, ...]:
        kind, dtype = features.device.type, features.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        with torch.autocast(kind, enabled=False), torch.cuda.device_of(features):
            values = _Features(features, texts[positives], dtype)
            lines = _Lines(scale.float(), bias.float(), texts.to(dtype), hard_pooling)
            logits, areas, tv_mask = torch.empty(3, len(features), len(texts), device=features.device)
            for images, some in _chunks(len(features), len(texts), values.size):
                masks = _Masks(values, lines, images, some)
                areas[images, some], tv_mask[images, some] = masks.areas, masks.variations
                logits[images, some] = (normalise(masks.means()) * texts[some]).sum(dim=2)
        ctx.save_for_backward(features, texts, scale, bias)  # so that torch notices if they are written to
        ctx.values, ctx.lines = values, lines
        tv_image, cosines = values.variations.clone(), values.cosines.clone()  # what ctx holds must not be a result
        return logits, areas, tv_mask.mean(dim=1), tv_image, cosines.unflatten(1, features.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, d_logits: Tensor, d_areas: Tensor, d_tv_mask: Tensor, d_tv_image: Tensor, d_cosines: Tensor
    ) -> tuple[Tensor | None, ...]:
        features, texts, scale, bias = ctx.saved_tensors
        values, lines = ctx.values, ctx.lines
        d_variations = (d_tv_mask / len(texts))[:, None].expand_as(d_logits)
        d_values, d_lengths = torch.empty_like(values.values), torch.zeros_like(values.inverses)
        d_scale, d_bias = torch.zeros_like(scale), torch.zeros_like(bias)
        with torch.autocast(features.device.type, enabled=False), torch.cuda.device_of(features):
            for images, some in _chunks(len(features), len(texts), values.size):
                masks = _Masks(values, lines, images, some)
                d_pooled, d_means = _pooling_gradient(masks, texts[some], d_logits[images, some])
                d_means += d_areas[images, some] / values.size
                part = d_values[images]
                torch.baddbmm(part, masks.pooling.mT, d_pooled, beta=int(some.start > 0), out=part)
                d_products = torch.bmm(d_pooled, values.values[images].mT)
                found = masks.gradient(d_products, d_means, d_variations[images, some])
                torch.baddbmm(part, d_products.mT, lines.texts[some].expand(len(part), -1, -1), out=part)
                for total, of_chunk in zip((d_lengths[images], d_scale, d_bias), found, strict=True):
                    total += of_chunk
            values.add_gradient(d_values, d_lengths, d_cosines, d_tv_image)
        d_features = d_values.unflatten(1, features.shape[2:]).permute(0, 3, 1, 2).to(features.dtype)
        return d_features, None, d_scale, d_bias, None, None


class _Features:
    """V as `values` [B, P, D], and what is found in one pass over it.

    inverses: of its lengths [B, P]; cosines: S_ii, with the images' own texts [B, P]; variations: its total variation
    [B].
    """

    def __init__(self, features: Tensor, texts: Tensor, dtype: torch.dtype) -> None:
        images, channels, height, width = features.shape
        self.values = features.detach().permute(0, 2, 3, 1).flatten(1, 2).to(dtype).contiguous()
        self.texts = texts.to(dtype).contiguous()
        self.size, self.width = height * width, width
        self.across, self.down = 1 / max(height * (width - 1), 1), 1 / max((height - 1) * width, 1)
        self._launch = triton.cdiv(self.size, VECTORS), images
        self._sizes = (self.size, width, channels, self.across / channels, self.down / channels, EPS)
        self._shape = {"DEPTH": triton.next_power_of_2(channels), "BLOCK": VECTORS}
        self.inverses, self.cosines, parts = torch.empty(3, images, self.size, device=features.device)
        pointers = self.values, self.texts, self.inverses, self.cosines, parts
        features_kernel[self._launch](*pointers, *self._sizes, **self._shape)
        self.variations = parts.sum(dim=1)

    def add_gradient(self, d_values: Tensor, d_lengths: Tensor, d_cosines: Tensor, d_variations: Tensor) -> None:
        """Add to d_values what V gets through its lengths, S_ii and its total variation.

        d_lengths: sum of the products' gradients times their cosines [B, P].
        """
        gradients = d_values, d_lengths, d_cosines.contiguous(), d_variations.contiguous()
        pointers = self.values, self.texts, self.inverses, self.cosines, *gradients
        features_gradient_kernel[self._launch](*pointers, *self._sizes, **self._shape)


class _Lines:
    """What turns V into masks: w and b, all texts [N, D] in V's dtype, and whether to pool under rounded masks."""

    def __init__(self, scale: Tensor, bias: Tensor, texts: Tensor, hard: bool) -> None:
        self.scale, self.bias, self.texts, self.hard = scale.detach(), bias.detach(), texts, hard


class _Masks:
    """One chunk of masks [b, n, P]: `pooling`, those to pool under, and their `sums`.

    areas, variations: means and total variations of the soft masks [b, n].
    """

    def __init__(self, values: _Features, lines: _Lines, images: slice, some: slice) -> None:
        self.features = values.values[images]
        self.products = torch.matmul(lines.texts[some], self.features.mT)
        self.pooling = torch.empty_like(self.products)
        shape = self.products.shape[:2]
        self.sums, self.areas, self.variations = torch.empty(3, *shape, device=self.products.device)
        self._maps = self.products, values.inverses[images], lines.scale, lines.bias
        self._sizes = values.size, values.width, values.across, values.down
        results = self.pooling, self.sums, self.areas, self.variations
        masks_kernel[shape[1], shape[0]](*self._maps, *results, *self._sizes, HARD=lines.hard, BLOCK=ROW)

    def means(self) -> Tensor:
        """Means of V under the masks, float32 [b, n, D]."""
        return torch.bmm(self.pooling, self.features).float() / (self.sums[..., None] + EPS)

    def gradient(self, d_masks: Tensor, d_means: Tensor, d_variations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Turn the masks' gradient [b, n, P] into the products'; returns those of V's lengths [b, P], w and b.

        d_means, d_variations: gradients of the masks' sums and total variations [b, n].
        """
        images, texts, size = d_masks.shape
        blocks, segments = triton.cdiv(size, CELLS), min(SEGMENTS, texts)
        d_lengths = torch.empty(images, segments, size, device=d_masks.device)
        d_scale, d_bias = torch.empty(2, images, segments, blocks, device=d_masks.device)
        gradients = d_masks, d_means, d_variations.contiguous(), d_lengths, d_scale, d_bias
        masks_gradient_kernel[blocks, segments, images](*self._maps, *gradients, texts, *self._sizes, BLOCK=CELLS)
        return d_lengths.sum(dim=1), d_scale.sum(), d_bias.sum()


def _pooling_gradient(masks: _Masks, texts: Tensor, d_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of sum_p M V [b, n, D], in V's dtype, and of sum_p M [b, n], through the grounded embeddings."""
    means = masks.means()
    lengths = means.norm(dim=2, keepdim=True)
    bounded = lengths.clamp(min=EPS)
    units = means / bounded
    d_units = d_logits[..., None] * texts
    radial = (units * d_units).sum(dim=2, keepdim=True) * (lengths >= EPS)
    d_pooled = (d_units - radial * units) / (bounded * (masks.sums[..., None] + EPS))
    return d_pooled.to(masks.pooling.dtype), -(d_pooled * means).sum(dim=2)


def _chunks(images: int, texts: int, cells: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of slices of images and texts of no more than `CHUNK` mask cells, images outermost."""
    columns = min(max(CHUNK // cells, 1), texts)
    rows = max(CHUNK // (cells * columns), 1)
    for row in range(0, images, rows):
        for column in range(0, texts, columns):
            yield slice(row, row + rows), slice(column, column + columns)
