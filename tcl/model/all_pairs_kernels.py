"""Triton kernels of `tcl.model.all_pairs_fused`: maps are read and written once, sums are float32.

Pointers come first, then sizes. Shapes as there; inverses: 1 / |V|, bounded, [B, P]; across, down: what a difference of
two neighbours in a row or a column counts in a total variation.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _soft_mask(products, inverses, cell, exists, scale, bias):
    """sigmoid(scale * S + bias) at some cells, and S; both of no meaning where a cell does not exist."""
    cosine = tl.load(products + cell, exists, 0.0).to(tl.float32) * tl.load(inverses + cell, exists, 0.0)
    return 1 / (1 + tl.exp(-(scale * cosine + bias))), cosine


@triton.jit
def masks_kernel(
    products, inverses, scale, bias, masks, sums, areas, variations, size, width, across, down,
    HARD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All cells of one pair: masks to pool under and their sum; the soft mask's mean and total variation."""
    image, pair = tl.program_id(1), tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    products += pair.to(tl.int64) * size
    masks += pair.to(tl.int64) * size
    inverses += image * size
    scale, bias = tl.load(scale), tl.load(bias)
    zero = tl.zeros([BLOCK], tl.float32)
    total, area, variation = zero, zero, zero
    for start in range(0, size, BLOCK):
        cell = start + tl.arange(0, BLOCK)
        exists = cell < size
        has_right, has_below = exists & (cell % width + 1 < width), cell + width < size
        mask, _ = _soft_mask(products, inverses, cell, exists, scale, bias)
        right, _ = _soft_mask(products, inverses, cell + 1, has_right, scale, bias)
        below, _ = _soft_mask(products, inverses, cell + width, has_below, scale, bias)
        variation += tl.where(has_right, tl.abs(right - mask) * across, 0)
        variation += tl.where(has_below, tl.abs(below - mask) * down, 0)
        area += tl.where(exists, mask, 0)
        pooling = (mask > 0.5).to(tl.float32) if HARD else mask
        total += tl.where(exists, pooling, 0)
        tl.store(masks + cell, pooling, exists)
    tl.store(sums + pair, tl.sum(total))
    tl.store(areas + pair, tl.sum(area) / size)
    tl.store(variations + pair, tl.sum(variation))


@triton.jit
def _slope(here, there, exists):
    """The sign of here - there, which is the derivative of |here - there|; 0 without a neighbour."""
    return tl.where(exists, (here > there).to(tl.float32) - (here < there).to(tl.float32), 0)


@triton.jit
def masks_gradient_kernel(
    products, inverses, scale, bias, d_masks, d_means, d_variations, d_lengths, d_scale, d_bias, texts, size, width,
    across, down, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some cells of one image and a part of the texts: `d_masks` becomes the gradient of the products.

    d_means, d_variations: the gradients of the soft mask's sum and of its total variation.
    """
    block, segment, image = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    segments = tl.num_programs(1)
    place = image * segments + segment
    cell = block * BLOCK + tl.arange(0, BLOCK)
    exists = cell < size
    column = cell % width
    has_left, has_right = exists & (column > 0), exists & (column + 1 < width)
    has_above, has_below = exists & (cell >= width), cell + width < size
    inverses += image * size
    inverse = tl.load(inverses + cell, exists, 0.0)
    scale, bias = tl.load(scale), tl.load(bias)
    zero = tl.zeros([BLOCK], tl.float32)
    d_length, d_scales, d_biases = zero, zero, zero
    for text in range(segment, texts, segments):
        pair = image * texts + text
        own = products + pair.to(tl.int64) * size
        mask, cosine = _soft_mask(own, inverses, cell, exists, scale, bias)
        left, _ = _soft_mask(own, inverses, cell - 1, has_left, scale, bias)
        right, _ = _soft_mask(own, inverses, cell + 1, has_right, scale, bias)
        above, _ = _soft_mask(own, inverses, cell - width, has_above, scale, bias)
        below, _ = _soft_mask(own, inverses, cell + width, has_below, scale, bias)
        slope = across * (_slope(mask, left, has_left) + _slope(mask, right, has_right))
        slope += down * (_slope(mask, above, has_above) + _slope(mask, below, has_below))
        target = d_masks + pair.to(tl.int64) * size + cell
        gradient = tl.load(target, exists, 0.0).to(tl.float32) + tl.load(d_means + pair)
        gradient += tl.load(d_variations + pair) * slope
        gradient *= mask * (1 - mask)
        d_scales += gradient * cosine
        d_biases += gradient
        gradient *= scale * inverse
        d_length += gradient * cosine
        tl.store(target, gradient, exists)
    tl.store(d_lengths + place * size + cell, d_length, exists)
    total = place * tl.num_programs(0) + block
    tl.store(d_scale + total, tl.sum(tl.where(exists, d_scales, 0)))
    tl.store(d_bias + total, tl.sum(tl.where(exists, d_biases, 0)))


@triton.jit
def _vectors(values, cell, exists, channels, DEPTH: tl.constexpr):
    """V at some cells, [cells, DEPTH] in float32; 0 where there is none."""
    channel = tl.arange(0, DEPTH)
    known = exists[:, None] & (channel < channels)[None, :]
    return tl.load(values + cell.to(tl.int64)[:, None] * channels + channel[None, :], known, 0.0).to(tl.float32)


@triton.jit
def features_kernel(
    values, texts, inverses, cosines, variations, size, width, channels, across, down, eps,
    DEPTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some cells of V: inverses of their lengths, cosines with the image's own text, parts of the total variation."""
    image = tl.program_id(1).to(tl.int64)
    values += image * size * channels
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = cell < size
    has_right, has_below = exists & (cell % width + 1 < width), cell + width < size
    text = _vectors(texts, image + tl.zeros([BLOCK], tl.int64), exists, channels, DEPTH)
    here = _vectors(values, cell, exists, channels, DEPTH)
    right = _vectors(values, cell + 1, has_right, channels, DEPTH)
    below = _vectors(values, cell + width, has_below, channels, DEPTH)
    inverse = 1 / tl.maximum(tl.sqrt(tl.sum(here * here, axis=1)), eps)
    variation = tl.where(has_right, tl.sum(tl.abs(right - here), axis=1) * across, 0)
    variation += tl.where(has_below, tl.sum(tl.abs(below - here), axis=1) * down, 0)
    target = image * size + cell
    tl.store(inverses + target, inverse, exists)
    tl.store(cosines + target, tl.sum(here * text, axis=1) * inverse, exists)
    tl.store(variations + target, variation, exists)


@triton.jit
def features_gradient_kernel(
    values, texts, inverses, cosines, gradients, d_lengths, d_cosines, d_variations, size, width, channels, across,
    down, eps, DEPTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some cells: adds to `gradients` what V gets through its length, its own text and its total variation."""
    image = tl.program_id(1).to(tl.int64)
    values += image * size * channels
    gradients += image * size * channels
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = cell < size
    column = cell % width
    has_left, has_right = exists & (column > 0), exists & (column + 1 < width)
    has_above, has_below = exists & (cell >= width), cell + width < size
    here = _vectors(values, cell, exists, channels, DEPTH)
    left, right = cell - 1, cell + 1
    above, below = cell - width, cell + width
    slope = across * _slope(here, _vectors(values, left, has_left, channels, DEPTH), has_left[:, None])
    slope += across * _slope(here, _vectors(values, right, has_right, channels, DEPTH), has_right[:, None])
    slope += down * _slope(here, _vectors(values, above, has_above, channels, DEPTH), has_above[:, None])
    slope += down * _slope(here, _vectors(values, below, has_below, channels, DEPTH), has_below[:, None])
    place = image * size + cell
    inverse = tl.load(inverses + place, exists, 0.0)
    d_product = tl.load(d_cosines + place, exists, 0.0) * inverse
    d_length = tl.load(d_lengths + place, exists, 0.0) + d_product * tl.load(cosines + place, exists, 0.0)
    d_length = tl.where(inverse * eps < 1, d_length * inverse, 0)
    text = _vectors(texts, image + tl.zeros([BLOCK], tl.int64), exists, channels, DEPTH)
    total = _vectors(gradients, cell, exists, channels, DEPTH) + tl.load(d_variations + image) * slope
    total += d_product[:, None] * text - d_length[:, None] * here
    channel = tl.arange(0, DEPTH)
    known = exists[:, None] & (channel < channels)[None, :]
    tl.store(gradients + cell.to(tl.int64)[:, None] * channels + channel[None, :], total, known)
