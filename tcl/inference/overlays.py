"""Pictures of a segmentation: the image, its ground truth and the prediction side by side, with a legend."""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from tcl.datasets.benchmark import IGNORED
from tcl.files import replacing

PANEL_HEIGHT = 224
LEGEND_LINE = 20
OPACITY = 0.65


def class_colours(count: int) -> NDArray[np.uint8]:
    """A colour for each of `count` classes, uint8 [count, 3] RGB: hues a golden angle apart, three shades in turn."""
    shades = ((0.85, 0.95), (0.55, 0.80), (0.95, 0.60))
    colours = [colorsys.hsv_to_rgb(i * 0.61803398875 % 1, *shades[i % 3]) for i in range(count)]
    return (np.array(colours) * 255).astype(np.uint8)


def blend(
    image: NDArray[np.uint8], labels: NDArray[np.integer], *, classes: int, background: bool
) -> NDArray[np.uint8]:
    """An image, uint8 RGB [H, W, 3], under the colours of its classes; background and ignored pixels are dimmed."""
    colours = class_colours(classes)
    plain = (labels == IGNORED) | ((labels == 0) if background else False)
    tint = colours[np.where(plain, 0, labels)]
    tint[plain] = 0
    return (image * (1 - OPACITY) + tint * OPACITY).astype(np.uint8)


def write_overlay(
    path: Path,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    prediction: NDArray[np.int64],
    names: Sequence[str],
    background: bool,
) -> None:
    """Write image | ground truth | prediction as PNG; image: uint8 BGR [H, W, 3], label maps: class indices [H, W]."""
    rgb = np.ascontiguousarray(image[:, :, ::-1])
    shown = [
        rgb,
        *(blend(rgb, each, classes=len(names), background=background) for each in (labels, prediction)),
    ]
    width = round(PANEL_HEIGHT * rgb.shape[1] / rgb.shape[0])
    row = np.concatenate(
        [np.asarray(Image.fromarray(panel).resize((width, PANEL_HEIGHT), Image.Resampling.NEAREST)) for panel in shown],
        axis=1,
    )
    present = np.setdiff1d(np.union1d(labels, prediction), [IGNORED, *([0] if background else [])])
    legend = _legend([int(index) for index in present], names, row.shape[1])
    with replacing(path) as temporary:
        Image.fromarray(np.concatenate([row, legend])).save(temporary, pnginfo=_facts(present, names))


def _facts(present: NDArray[np.integer], names: Sequence[str]) -> PngInfo:
    """What another picture made of this one needs to know, as text chunks of the PNG."""
    colours = class_colours(len(names))
    info = PngInfo()
    info.add_text("panel_height", str(PANEL_HEIGHT))
    info.add_text("legend", json.dumps([(names[i], colours[i].tolist()) for i in present.tolist()]))
    return info


def _legend(present: list[int], names: Sequence[str], width: int) -> NDArray[np.uint8]:
    """Colour swatches with class names on white, in as many lines as they need: uint8 [h, width, 3]."""
    font = ImageFont.load_default(13)
    colours = class_colours(len(names))
    places, x, line = [], 6, 0
    for index in present:
        length = round(font.getlength(names[index])) + 34
        if x + length > width and x > 6:
            x, line = 6, line + 1
        places.append((index, x, line * LEGEND_LINE))
        x += length
    canvas = Image.new("RGB", (width, (line + 1) * LEGEND_LINE), "white")
    draw = ImageDraw.Draw(canvas)
    for index, left, top in places:
        draw.rectangle((left, top + 4, left + 12, top + 16), fill=tuple(int(c) for c in colours[index]))
        draw.text((left + 17, top + 2), names[index], fill="black", font=font)
    return np.asarray(canvas)
