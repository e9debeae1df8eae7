"""PAMR on a GPU: one kernel for the affinities of all images, one for each iteration on all of their masks.

Triton comes with PyTorch's builds for GPUs. Only `tcl.inference.pamr` imports this module, where Triton is there.
"""

# Annotations are no strings here: not every version of Triton reads those.
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

AFFINITY_PIXELS, AFFINITY_WARPS = 64, 2
"""Pixels whose affinities one program computes, and its warps."""

PIXELS, CLASSES, WARPS = 256, 2, 4
"""Pixels and masks that one program of an iteration computes, and its warps."""


@triton.jit
def _neighbour(
    pixel: tl.tensor, dilation: tl.tensor, place: tl.constexpr, height: tl.tensor, width: tl.tensor
) -> tl.tensor:
    """Flat indices of pixels' neighbours, replicate padding; place: 0 to 7, row by row without the pixel itself."""
    step: tl.constexpr = place + place // 4
    row = pixel // width + (step // 3 - 1) * dilation
    column = pixel % width + (step % 3 - 1) * dilation
    return tl.minimum(tl.maximum(row, 0), height - 1) * width + tl.minimum(tl.maximum(column, 0), width - 1)


@triton.jit
def _scale(
    plane: tl.tensor,
    centre: tl.tensor,
    pixel: tl.tensor,
    dilations: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    COUNT: tl.constexpr,
) -> tl.tensor:
    """1e-8 + 0.1 * std of a channel around each pixel: unbiased, over the 9-neighbourhoods of all dilations together.

    Summed in float64. The pixel itself differs by 0 from the centre: it is counted, not added.
    """
    sums = tl.zeros(centre.shape, tl.float64)
    squares = tl.zeros(centre.shape, tl.float64)
    for index in range(COUNT):
        dilation = tl.load(dilations + index)
        for place in tl.static_range(8):
            neighbour = tl.load(plane + _neighbour(pixel, dilation, place, height, width))
            difference = neighbour.to(tl.float64) - centre.to(tl.float64)
            sums += difference
            squares += difference * difference
    count: tl.constexpr = 9 * COUNT
    variance = tl.maximum(squares - sums * sums / count, 0.0) / (count - 1)
    return 1e-8 + 0.1 * tl.sqrt(variance).to(centre.dtype)


@triton.jit
def _similarity(
    image: tl.tensor,
    size: tl.tensor,
    at: tl.tensor,
    red: tl.tensor,
    green: tl.tensor,
    blue: tl.tensor,
    red_scale: tl.tensor,
    green_scale: tl.tensor,
    blue_scale: tl.tensor,
) -> tl.tensor:
    """Mean over the channels of -|x_p - x_q| / scale_p, for pixels p of these colours and q at the indices `at`."""
    sums = tl.abs(tl.load(image + at) - red) / red_scale
    sums += tl.abs(tl.load(image + size + at) - green) / green_scale
    sums += tl.abs(tl.load(image + size + size + at) - blue) / blue_scale
    return -sums / 3


@triton.jit(do_not_specialize=["height"])
def _affinity(
    image: tl.tensor,
    out: tl.tensor,
    dilations: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    COUNT: tl.constexpr,
    PIXELS: tl.constexpr,
) -> None:
    """Softmax over the neighbours of each pixel: images [B, 3, h, w] -> out [B, 8 * COUNT, h, w], contiguous both."""
    size = height * width
    blocks = tl.cdiv(size, PIXELS)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    image += batch * 3 * size
    pixel = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < size
    red = tl.load(image + pixel, inside, 0.0)
    green = tl.load(image + size + pixel, inside, 0.0)
    blue = tl.load(image + size + size + pixel, inside, 0.0)
    red_scale = _scale(image, red, pixel, dilations, height, width, COUNT)
    green_scale = _scale(image + size, green, pixel, dilations, height, width, COUNT)
    blue_scale = _scale(image + size + size, blue, pixel, dilations, height, width, COUNT)

    highest = tl.full(red.shape, -float("inf"), red.dtype)
    total = tl.zeros(red.shape, red.dtype)
    for index in range(COUNT):
        dilation = tl.load(dilations + index)
        for place in tl.static_range(8):
            at = _neighbour(pixel, dilation, place, height, width)
            similarity = _similarity(image, size, at, red, green, blue, red_scale, green_scale, blue_scale)
            higher = tl.maximum(highest, similarity)
            total = total * tl.exp(highest - higher) + tl.exp(similarity - higher)
            highest = higher

    targets = out + batch * (8 * COUNT) * size + pixel
    for index in range(COUNT):
        dilation = tl.load(dilations + index)
        for place in tl.static_range(8):
            at = _neighbour(pixel, dilation, place, height, width)
            similarity = _similarity(image, size, at, red, green, blue, red_scale, green_scale, blue_scale)
            tl.store(targets, tl.exp(similarity - highest) / total, inside)
            targets += size


@triton.jit(do_not_specialize=["channels", "height"])
def _iterate(
    masks: tl.tensor,
    out: tl.tensor,
    weights: tl.tensor,
    dilations: tl.tensor,
    channels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    COUNT: tl.constexpr,
    PIXELS: tl.constexpr,
    CLASSES: tl.constexpr,
) -> None:
    """Weighted sums over the neighbours: masks [B, N, h, w] -> out, by weights [B, 8 * COUNT, h, w], contiguous all.

    Programs are counted along one axis, as only the first of a grid may be longer than 65,535.
    """
    size = height * width
    blocks, groups = tl.cdiv(size, PIXELS), tl.cdiv(channels, CLASSES)
    pixel = tl.program_id(0) % blocks * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(0) // blocks % groups * CLASSES + tl.arange(0, CLASSES)
    batch = (tl.program_id(0) // blocks // groups).to(tl.int64)
    near = pixel < size
    inside = (channel < channels)[:, None] & near[None, :]
    planes = (batch * channels + channel)[:, None] * size  # of 64 bits, as masks may have more than 2^31 values
    sources = weights + batch * (8 * COUNT) * size + pixel
    total = tl.zeros([CLASSES, PIXELS], weights.dtype.element_ty)
    for index in range(COUNT):
        dilation = tl.load(dilations + index)
        for place in tl.static_range(8):
            at = _neighbour(pixel, dilation, place, height, width)
            weight = tl.load(sources, near, 0.0)
            total += weight[None, :] * tl.load(masks + planes + at[None, :], inside, 0.0)
            sources += size
    tl.store(out + planes + pixel[None, :], total, inside)


@lru_cache(maxsize=16)
def _table(dilations: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(dilations, dtype=torch.int32, device=device)


class FusedAffinities:
    """Affinities of images [B, 3, h, w], float32 or float64, to each pixel's neighbours: [B, 8 * dilations, h, w]."""

    def __init__(self, images: Tensor, dilations: tuple[int, ...]) -> None:
        batch, _, height, width = images.shape
        self.dilations = _table(dilations, images.device)
        self.weights = images.new_empty(batch, 8 * len(dilations), height, width)
        grid = (batch * triton.cdiv(height * width, AFFINITY_PIXELS),)
        with torch.cuda.device_of(images):
            _affinity[grid](
                images.contiguous(),
                self.weights,
                self.dilations,
                height,
                width,
                COUNT=len(dilations),
                PIXELS=AFFINITY_PIXELS,
                num_warps=AFFINITY_WARPS,
            )

    @property
    def nbytes(self) -> int:
        return self.weights.nbytes

    def refine(self, masks: Tensor, iterations: int) -> Tensor:
        """As `Affinities.refine` says; beside the masks two more of their size are held."""
        batch, channels, height, width = masks.shape
        if (batch, height, width, masks.device) != (*self.weights[:, 0].shape, self.weights.device):
            raise ValueError(f"masks {list(masks.shape)} do not belong to affinities {list(self.weights.shape)}.")
        state = masks.to(self.weights.dtype).contiguous()
        targets = [torch.empty_like(state) for _ in range(min(iterations, 2))]
        grid = (batch * triton.cdiv(channels, CLASSES) * triton.cdiv(height * width, PIXELS),)
        with torch.cuda.device_of(masks):
            for index in range(iterations):
                after = targets[index % 2]
                _iterate[grid](
                    state,
                    after,
                    self.weights,
                    self.dilations,
                    channels,
                    height,
                    width,
                    COUNT=len(self.dilations),
                    PIXELS=PIXELS,
                    CLASSES=CLASSES,
                    num_warps=WARPS,
                )
                state = after
        return state.to(masks.dtype)
