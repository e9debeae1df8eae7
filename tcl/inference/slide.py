"""From an image file's pixels to logits and a label map: resizing, sliding windows, background (paper, Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcl.inference.masks import SegmentationModel, WindowMasks, resize
from tcl.inference.settings import IMAGENET_MEAN, IMAGENET_STD, InferenceSettings

WINDOWS, MASKS = 4, 32
"""Windows that go through the towers at once, and masks that a processor resizes at once; a GPU takes all of them."""


def model_input(image: NDArray[np.uint8], settings: InferenceSettings, device: torch.device | str = "cpu") -> Tensor:
    """uint8 BGR [H, W, 3] as cv2 decodes it -> normalised RGB float32 [1, 3, H', W'] on a device.

    Resized by s = min(long_side / long, short_side / short) to int(side * s + .5), bilinear on uint8; a side keeps at
    least one pixel. Bytes go to the device, which makes numbers of them.
    """
    import cv2

    height, width = image.shape[:2]
    scale = min(settings.long_side / max(height, width), settings.short_side / min(height, width))
    size = (max(int(width * scale + 0.5), 1), max(int(height * scale + 0.5), 1))
    blue, green, red = cv2.split(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR))
    pixels = torch.from_numpy(np.stack([red, green, blue])[None]).to(device)
    mean, std = _statistics(pixels.device)
    return pixels.float().sub_(mean).div_(std)


@lru_cache(maxsize=16)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pixels, [3, 1, 1] each, kept on the device."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std


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
    masks = list(SlidingMasks(model, image, {settings.templates: embeddings}, [settings]).under(settings))
    front = [torch.full_like(masks[0][:, :1], settings.background_threshold)] if background else []
    return torch.cat([*front, *masks], dim=1)


class SlidingMasks:
    """Masks of an image under any of several settings with one window and stride; what they share is made once."""

    @torch.no_grad()
    def __init__(
        self,
        model: SegmentationModel,
        image: Tensor,
        embeddings: Mapping[str, Tensor],
        settings: Sequence[InferenceSettings],
    ) -> None:
        """Run the towers on a normalised image [1, 3, H, W]; embeddings: by the settings' templates, [N, D] each."""
        self.image = image
        self.side = settings[0].window
        rows, columns = (window_starts(length, self.side, settings[0].stride) for length in image.shape[2:])
        self.corners = [(y, x) for y in rows for x in columns]
        maskclip = any(each.kp_w > 0 for each in settings)
        windows = torch.cat([image[:, :, y : y + self.side, x : x + self.side] for y, x in self.corners])
        self.windows = [WindowMasks(model, part, embeddings, maskclip=maskclip) for part in windows.split(WINDOWS)]

    @torch.no_grad()
    def under(self, settings: InferenceSettings, channels: slice = slice(None)) -> Iterator[Tensor]:
        """Soft masks under one of the settings, averaged over the windows, some at a time: [1, c, H, W].

        channels: which of the model's masks, of which there is one an embedding, or one an embedding and method.
        """
        first, last, _ = channels.indices(self.windows[0].count)
        step = MASKS if self.image.device.type == "cpu" else last - first
        for start in range(first, last, step):
            some = slice(start, min(start + step, last))
            yield self._averaged([windows.on_grid(settings, some) for windows in self.windows])

    def _averaged(self, masks: Sequence[Tensor]) -> Tensor:
        """Masks [1, c, H, W] of the image from those of the windows, batches of [B, c, h, w] on the grid."""
        total = self.image.new_zeros(1, masks[0].shape[1], *self.image.shape[2:])
        visits = torch.zeros_like(total[:, :1])
        size, inside = self.windows[0].size, self.windows[0].inside
        each_window = (window for batch in masks for window in batch.split(1))
        for (y, x), window in zip(self.corners, each_window, strict=True):
            place = (..., slice(y, y + self.side), slice(x, x + self.side))
            total[place] += resize(window, size)[inside]
            visits[place] += 1
        return total.div_(visits)


NEAR = 1e-6
"""Logits that are closer than this may be equal after a softmax in float32, whose rounding is a tenth of it."""


class PixelLogits:
    """Logits of an image brought to its own size (bilinear), and the highest one at each pixel.

    best: its value [H, W]; channel: its index.
    """

    @torch.no_grad()
    def __init__(self, parts: Iterable[Tensor], size: tuple[int, int]) -> None:
        """parts: logits [1, c, H', W'], some channels after the others."""
        self._parts: list[Tensor] = []
        bests, channels, count = [], [], 0
        for part in parts:
            self._size, self._image_size = (part.shape[2], part.shape[3]), size
            self._parts.append(resize(part, size)[0])
            best, channel = self._parts[-1].max(dim=0)
            bests.append(best)
            channels.append(channel + count)
            count += part.shape[1]
        self.best, part_of_best = torch.stack(bests).max(dim=0)
        self.channel = torch.stack(channels).gather(0, part_of_best[None])[0]
        near = [(part >= self.best - NEAR).sum(dim=0, dtype=torch.int16) for part in self._parts]
        self._close = torch.stack(near).sum(dim=0) > 1

    @torch.no_grad()
    def chosen(self, background: float | None = None) -> NDArray[np.int64]:
        """What softmax and argmax choose at each pixel, [H, W]; background: a constant channel in front of the others.

        Only where several logits are close does the softmax decide: of those that it makes equal, the first one wins.
        """
        chosen, close = self.channel.clone(), self._close
        front = self._parts[0][:0]
        if background is not None:
            front = resize(self.best.new_full((1, 1, *self._size), background), self._image_size)[0]
            chosen = torch.where(front[0] >= self.best, 0, 1 + chosen)
            close = close | ((front[0] - self.best).abs() <= NEAR)
        rows, columns = close.nonzero(as_tuple=True)  # found once, as the caller must wait for a GPU to find them
        compared = torch.cat([part[:, rows, columns] for part in (front, *self._parts)])
        chosen[rows, columns] = compared.softmax(dim=0).argmax(dim=0)
        return chosen.cpu().numpy()
