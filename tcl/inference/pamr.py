"""Pixel-adaptive mask refinement (PAMR): masks follow the image's local colour affinities (paper, Sec. 3.5)."""

from __future__ import annotations

import warnings
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=16)
def _neighbours(height: int, width: int, dilations: tuple[int, ...]) -> Tensor:
    """Flat indices of each pixel's eight neighbours at every dilation, replicate padding: [hw, 8 * dilations]."""
    rows, columns = torch.arange(height).view(-1, 1), torch.arange(width).view(1, -1)
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
    indices = [
        (rows + dy * d).clamp(0, height - 1) * width + (columns + dx * d).clamp(0, width - 1)
        for d in dilations
        for dy, dx in offsets
    ]
    return torch.stack(indices, dim=-1).view(height * width, -1)


def affinity(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Affinity of each pixel to its neighbours, rows summing to 1: [hw, 8 * dilations].

    image: [3, h, w]. a = mean over channels of -|x_p - x_q| / (1e-8 + 0.1 * std), softmax over the neighbours; std is
    the unbiased deviation over the 9-neighbourhoods of all dilations together (54 values for six dilations).
    """
    pixels = image.flatten(1)
    around = pixels[:, _neighbours(image.shape[1], image.shape[2], dilations).to(image.device)]
    centre = pixels.unsqueeze(-1)
    std = torch.cat([around, centre.expand(-1, -1, len(dilations))], dim=-1).std(dim=-1, keepdim=True)
    return (-(around - centre).abs() / (1e-8 + 0.1 * std)).mean(dim=0).softmax(dim=-1)


def transition(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The affinity of an image [3, h, w] as one sparse matrix [hw, hw], fixed through the iterations."""
    weights = affinity(image, dilations)
    pixels, degree = weights.shape
    columns = _neighbours(image.shape[1], image.shape[2], dilations).to(image.device).flatten()
    rows = torch.arange(0, pixels * degree + 1, degree, device=image.device)
    with warnings.catch_warnings():  # torch calls CSR tensors a beta feature
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(rows, columns, weights.flatten(), size=(pixels, pixels))


def iterate(matrix: Tensor, masks: Tensor, iterations: int) -> Tensor:
    """Masks [N, h, w], each replaced `iterations` times by its neighbours' weighted sum: [N, h, w]."""
    state = masks.flatten(1).T.contiguous()
    for _ in range(iterations):
        state = matrix @ state
    return state.T.reshape(masks.shape)


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
