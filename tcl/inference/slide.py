"""From an image file's pixels to logits and a label map: resizing, sliding windows, background (paper, Sec. 4.1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcl.inference.masks import SegmentationModel, resize
from tcl.inference.settings import IMAGENET_MEAN, IMAGENET_STD, InferenceSettings


def model_input(image: NDArray[np.uint8], settings: InferenceSettings) -> Tensor:
    """uint8 BGR [H, W, 3] as cv2 decodes it -> normalised RGB float32 [1, 3, H', W'].

    Resized by s = min(long_side / long, short_side / short) to int(side * s + .5), bilinear on uint8; a side keeps at
    least one pixel.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(settings.long_side / max(height, width), settings.short_side / min(height, width))
    size = (max(int(width * scale + 0.5), 1), max(int(height * scale + 0.5), 1))
    resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    rgb = torch.from_numpy(resized[:, :, ::-1].astype(np.float32))
    return ((rgb - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(2, 0, 1)[None].contiguous()


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one axis; the last one is shifted back to the border."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]


def sliding_logits(
    model: SegmentationModel, image: Tensor, embeddings: Tensor, *, settings: InferenceSettings, background: bool
) -> Tensor:
    """Logits [1, C, H, W] of a normalised image [1, 3, H, W], averaged over its windows.

    C is the number of embeddings, with a constant background channel in front of them if asked for.
    """
    logits = sliding_masks(model, image, embeddings, settings=settings)
    return with_background(logits, settings) if background else logits


def with_background(logits: Tensor, settings: InferenceSettings) -> Tensor:
    """Logits [1, C, H, W] behind a constant channel, the background threshold: [1, 1 + C, H, W]."""
    return torch.cat([torch.full_like(logits[:, :1], settings.background_threshold), logits], dim=1)


@torch.no_grad()
def sliding_masks(
    model: SegmentationModel, image: Tensor, embeddings: Tensor, *, settings: InferenceSettings
) -> Tensor:
    """Soft masks [1, C, H, W] of a normalised image [1, 3, H, W], averaged over its windows.

    C is the number of the model's masks: one an embedding, or one an embedding and method.
    """
    height, width = image.shape[2:]
    side = settings.window
    corners = [
        (y, x)
        for y in window_starts(height, side, settings.stride)
        for x in window_starts(width, side, settings.stride)
    ]
    windows = torch.cat([image[:, :, y : y + side, x : x + side] for y, x in corners])
    masks_of_windows = (
        masks
        for start in range(0, len(corners), 4)
        for masks in model.soft_masks(windows[start : start + 4], embeddings, settings.pamr, settings.kp_w)
    )
    total, visits = image.new_zeros(1, 1, height, width), image.new_zeros(1, 1, height, width)
    for (y, x), masks in zip(corners, masks_of_windows, strict=True):
        if len(masks) != total.shape[1]:
            total = image.new_zeros(1, len(masks), height, width)
        total[:, :, y : y + side, x : x + side] += masks
        visits[:, :, y : y + side, x : x + side] += 1
    return total / visits


def label_map(logits: Tensor, size: tuple[int, int]) -> NDArray[np.int64]:
    """Logits [1, C, H', W'] -> channel indices [H, W]: bilinear to the image's own size, softmax, argmax."""
    return resize(logits, size).softmax(dim=1).argmax(dim=1)[0].cpu().numpy()


def best_foreground(masks: Tensor, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Masks [1, C, H', W'] -> at each pixel of an image of `size` the highest one and its channel: both [H, W]."""
    values, channels = resize(masks, size)[0].max(dim=0)
    return values.cpu().numpy(), channels.cpu().numpy()
