"""Many windows, one mask: how overlapping windows are averaged.

The benchmark averages all windows that see a pixel alike, so a mask may step where a window ends. On pictures for
people each window fades out over its overlap instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import window_starts

Blend: TypeAlias = Literal["feathered", "uniform"]


class Window(NamedTuple):
    """Where a window lies in the picture, in pixels: it starts at (top, left) and is `height` x `width` large."""

    top: int
    left: int
    height: int
    width: int


def window_grid(height: int, width: int, settings: InferenceSettings) -> list[Window]:
    """The windows of a picture of this size, as the benchmark protocol lays them."""
    side = settings.window
    return [
        Window(top, left, min(side, height), min(side, width))
        for top in window_starts(height, side, settings.stride)
        for left in window_starts(width, side, settings.stride)
    ]


def ramp(start: int, length: int, whole: int, overlap: int) -> Tensor:
    """Weights [length] of a window along one axis of `whole` pixels, in (0, 1].

    Linear over `overlap` pixels from each end of the window that is not an end of the picture. Windows that overlap by
    at least that much have a sum of weights of 1 or more everywhere, so the share of a window changes by at most
    1 / overlap from one pixel to the next.
    """
    weights = torch.ones(length)
    rise = (torch.arange(length) + 0.5) / max(overlap, 1)
    if start > 0:
        weights = torch.minimum(weights, rise)
    if start + length < whole:
        weights = torch.minimum(weights, rise.flip(0))
    return weights


def blend_windows(
    masks: Iterable[tuple[Window, Tensor]],
    *,
    count: int,
    size: tuple[int, int],
    overlap: int,
    blend: Blend,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Masks [count, h, w] of a picture from the masks [count, height, width] of its windows, one after the other.

    The windows' masks are on the device; the result is in the processor's memory.
    """
    height, width = size
    total = torch.zeros(count, height, width, device=device)
    weight = torch.zeros(height, width, device=device)
    for window, part in masks:
        share = torch.ones(window.height, window.width, device=device)
        if blend == "feathered":
            down = ramp(window.top, window.height, height, overlap).to(device)
            across = ramp(window.left, window.width, width, overlap).to(device)
            share = down[:, None] * across
        place = (slice(window.top, window.top + window.height), slice(window.left, window.left + window.width))
        total[:, place[0], place[1]] += part * share
        weight[place] += share
    return total.div_(weight).cpu()
