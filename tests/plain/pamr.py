"""PAMR on dense tensors: the 48 neighbours of every pixel are copied out, of the image once, of all masks each time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def neighbours(maps: Tensor, dilations: tuple[int, ...], *, centre: bool) -> Tensor:
    """Values around each pixel at every dilation, replicate padding: [B, N, 8 or 9 per dilation, h, w]."""
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
def pamr(images: Tensor, masks: Tensor, *, iterations: int, dilations: tuple[int, ...]) -> Tensor:
    """Refine masks [B, N, h, w] by images [B, 3, H, W]: [B, N, h, w]."""
    images = F.interpolate(images, size=masks.shape[-2:], mode="bilinear", align_corners=True)
    around = neighbours(images, dilations, centre=False)
    std = neighbours(images, dilations, centre=True).std(dim=2, keepdim=True)
    difference = -(images.unsqueeze(2) - around).abs() / (1e-8 + 0.1 * std)
    affinity = difference.mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(iterations):
        masks = (neighbours(masks, dilations, centre=False) * affinity).sum(dim=2)
    return masks
