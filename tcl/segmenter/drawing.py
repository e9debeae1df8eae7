"""Label maps drawn over their picture, with a legend that can be read at any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tcl.inference.overlays import class_colours

OPACITY = 0.55
DIMMED = 0.55
"""Brightness of what belongs to no word."""


def draw_overlay(
    pixels: NDArray[np.uint8], labels: NDArray[np.unsignedinteger[Any]], words: Sequence[str], *, legend: bool
) -> Image.Image:
    """A picture, uint8 RGB [H, W, 3], under the colours of its label map [H, W], with the words found in a legend."""
    colours = np.concatenate([np.zeros((1, 3), np.uint8), class_colours(len(words))])
    picture = Image.fromarray(pixels)
    tinted = Image.blend(picture, Image.fromarray(colours[labels]), OPACITY)
    dimmed = Image.blend(Image.new("RGB", picture.size), picture, DIMMED)
    drawn = Image.composite(tinted, dimmed, Image.fromarray(labels > 0))
    border = _borders(labels, thickness=max(max(labels.shape) // 500, 1))
    drawn.paste(Image.fromarray(colours[labels]), mask=Image.fromarray(border & (labels > 0)))
    if not legend:
        return drawn
    present = [index for index in np.unique(labels).tolist() if index > 0]
    entries = [(words[index - 1], tuple(colours[index].tolist())) for index in present]
    return _with_legend(drawn, entries or [("nothing found", (0, 0, 0))])


def _borders(labels: NDArray[np.unsignedinteger[Any]], *, thickness: int) -> NDArray[np.bool_]:
    """Pixels [H, W] whose label differs from that of one within `thickness` pixels up, down, left or right."""
    border = np.zeros(labels.shape, np.bool_)
    down = labels[thickness:] != labels[:-thickness]
    across = labels[:, thickness:] != labels[:, :-thickness]
    border[thickness:] |= down
    border[:-thickness] |= down
    border[:, thickness:] |= across
    border[:, :-thickness] |= across
    return border


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """The picture with swatches and words on white below it, in as many lines as they need.

    Letters are a fortieth of the picture's width high; a picture narrower than its legend stands on white too.
    """
    size = min(max(picture.width // 40, 12), 72)
    font = ImageFont.load_default(size)
    margin, line = size // 2, round(size * 1.6)
    lengths = [round(font.getlength(word)) + size * 2 for word, _ in entries]
    width = max(picture.width, min(max(lengths), size * 30) + 2 * margin)
    places, x, y = [], margin, picture.height + margin
    for length in lengths:
        if x + length > width and x > margin:
            x, y = margin, y + line
        places.append((x, y))
        x += length
    canvas = Image.new("RGB", (width, y + line), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for (word, colour), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top + size // 8, left + size, top + size // 8 + size), fill=colour)
        draw.text((left + round(size * 1.3), top), word, fill="black", font=font)
    return canvas
