"""PAMR on dense tensors: the 48 neighbours of every pixel are copied out, of the image once, of all masks each time.

The official code copies by dilated convolutions, whose kernels hold a single one each. Copying slices of a padded
tensor gives the same values in less time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Neighbours = Callable[..., Tensor]


def by_convolutions(maps: Tensor, dilations: tuple[int, ...], *, centre: bool) -> Tensor:
    """Values around each pixel at every dilation, replicate padding: [B, N, 8 or 9 per dilation, h, w]."""
    kernels = torch.eye(9, device=maps.device, dtype=maps.dtype).view(9, 1, 3, 3)
    if not centre:
        kernels = torch.cat([kernels[:4], kernels[5:]])
    single = maps.flatten(0, 1).unsqueeze(1)
    copies = [F.conv2d(F.pad(single, (d, d, d, d), mode="replicate"), kernels, dilation=d) for d in dilations]
    return torch.cat(copies, dim=1).unflatten(0, maps.shape[:2])


def by_slices(maps: Tensor, dilations: tuple[int, ...], *, centre: bool) -> Tensor:
    """The same as `by_convolutions`."""
    height, width = maps.shape[2:]
    reach = max(dilations)
    padded = F.pad(maps, (reach, reach, reach, reach), mode="replicate")
    offsets = [
        (reach + dy * d, reach + dx * d)
        for d in dilations
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if centre or (dy, dx) != (0, 0)
    ]
    return torch.stack([padded[:, :, y : y + height, x : x + width] for y, x in offsets], dim=2)


@torch.no_grad()
def pamr(
    images: Tensor,
    masks: Tensor,
    *,
    iterations: int,
    dilations: tuple[int, ...],
    neighbours: Neighbours = by_convolutions,
) -> Tensor:
    """Refine masks [B, N, h, w] by images [B, 3, H, W]: [B, N, h, w]."""
    images = F.interpolate(images, size=masks.shape[-2:], mode="bilinear", align_corners=True)
    around = neighbours(images, dilations, centre=False)
    std = neighbours(images, dilations, centre=True).std(dim=2, keepdim=True)
    difference = -(images.unsqueeze(2) - around).abs() / (1e-8 + 0.1 * std)
    affinity = difference.mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(iterations):
        masks = (neighbours(masks, dilations, centre=False) * affinity).sum(dim=2)
    return masks
