"""Pixel-adaptive mask refinement (PAMR): masks follow the image's local colour affinities (paper, Sec. 3.5)."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES = 64
"""Masks that are refined at once: few enough to stay in a processor's cache through the iterations."""


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns from a pixel to its eight neighbours at every dilation."""
    steps = (-1, 0, 1)
    return [(dy * d, dx * d) for d in dilations for dy in steps for dx in steps if (dy, dx) != (0, 0)]


@lru_cache(maxsize=16)
def _neighbours(height: int, width: int, dilations: tuple[int, ...]) -> Tensor:
    """Flat indices of each pixel's neighbours, replicate padding: int32 [hw, 8 * dilations]."""
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width).view(1, -1)
    indices = [
        (rows + dy).clamp(0, height - 1) * width + (columns + dx).clamp(0, width - 1) for dy, dx in _offsets(dilations)
    ]
    return torch.stack(indices, dim=-1).view(height * width, -1).int()


def affinity(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Affinity of each pixel to its neighbours, rows summing to 1: [hw, 8 * dilations].

    image: [3, h, w]. a = mean over channels of -|x_p - x_q| / (1e-8 + 0.1 * std), softmax over the neighbours; std is
    the unbiased deviation over the 9-neighbourhoods of all dilations together (54 values for six dilations).
    """
    height, width = image.shape[1:]
    reach = max(dilations)
    padded = F.pad(image[None], (reach, reach, reach, reach), mode="replicate")[0]

    def around(dilation: int) -> Tensor:
        """The eight neighbours' values [8, 3, h, w]."""
        corners = [(reach + dy, reach + dx) for dy, dx in _offsets((dilation,))]
        return torch.stack([padded[:, y : y + height, x : x + width] for y, x in corners])

    count, centre = 9 * len(dilations), image.double()
    sums, squares = torch.zeros_like(centre), torch.zeros_like(centre)
    for dilation in dilations:
        shifted = around(dilation).double().sub_(centre)
        sums += shifted.sum(dim=0)
        squares += shifted.square_().sum(dim=0)
    variance = (squares - sums.square() / count).clamp_(min=0) / (count - 1)
    scale = 1e-8 + 0.1 * variance.sqrt().to(image.dtype)
    similarity = image.new_empty(height * width, 8 * len(dilations))
    for dilation, part in zip(dilations, similarity.split(8, dim=1), strict=True):
        part.copy_(around(dilation).sub_(image).abs_().neg_().div_(scale).mean(dim=1).flatten(1).T)
    return similarity.softmax(dim=-1)


def transition(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The affinity of an image [3, h, w] as one sparse matrix [hw, hw], fixed through the iterations."""
    weights = affinity(image, dilations)
    pixels, degree = weights.shape
    columns = _neighbours(image.shape[1], image.shape[2], dilations).to(image.device).flatten()
    rows = torch.arange(0, pixels * degree + 1, degree, device=image.device, dtype=torch.int32)
    with warnings.catch_warnings():  # torch calls CSR tensors a beta feature
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(rows, columns, weights.flatten(), size=(pixels, pixels))


def iterate(matrix: Tensor, masks: Tensor, iterations: int) -> Tensor:
    """Masks [N, h, w], each replaced `iterations` times by its neighbours' weighted sum: [N, h, w]."""
    refined = torch.empty_like(masks)
    starts = list(range(CLASSES, len(masks) - CLASSES + 1, CLASSES))  # a short rest goes with the last ones
    for part, target in zip(masks.tensor_split(starts), refined.tensor_split(starts), strict=True):
        state = part.flatten(1).T.contiguous()
        for _ in range(iterations):
            state = matrix @ state
        target.copy_(state.T.view(part.shape))
    return refined


def on_grid(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, 3, H, W] resized to the mask grid: [B, 3, *size] (bilinear, align_corners True)."""
    if (images.shape[2], images.shape[3]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


@torch.no_grad()
def pamr(
    images: Tensor,
    masks: Tensor,
    *,
    iterations: int = 10,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
) -> Tensor:
    """Refine masks [B, N, h, w] by images [B, 3, H, W] (any affine scaling of pixel values): [B, N, h, w].

    The images are resized to the mask grid (bilinear, align_corners True). Values stay within the range of the masks.
    """
    pairs = zip(on_grid(images, (masks.shape[2], masks.shape[3])), masks, strict=True)
    return torch.stack([iterate(transition(image, tuple(dilations)), mask, iterations) for image, mask in pairs])
