"""The outlines of the world's things, read from shapes.yaml and drawn as tone maps."""

import math
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcl.errors import TCLError

FILE = Path(__file__).with_name("shapes.yaml")
ELLIPSE_CORNERS = 16
SUBPIXEL_BITS = 4


class Tone(IntEnum):
    """What a pixel of a thing shows; `HOLE` shows what is behind."""

    HOLE = 0
    FILL = 1
    DARK = 2
    LIGHT = 3


class Shape(NamedTuple):
    """Polygons in the box from -1 to 1 (x right, y down), in drawing order.

    The corners of all of them lie in one array [corners, 2]; part k is the slice `parts[k]` of it, in `tones[k]`.
    """

    corners: NDArray[np.float64]
    parts: tuple[slice, ...]
    tones: tuple[Tone, ...]


@lru_cache(maxsize=1)
def shapes() -> dict[str, Shape]:
    """The shape of every thing by class name. Raises TCLError on a malformed file."""
    import yaml

    entries = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return {name: _shape(name, parts) for name, parts in entries.items()}


def draw(shape: Shape, transform: NDArray[np.float64], *, height: int, width: int) -> NDArray[np.uint8]:
    """Draw a thing into a tone map [height, width] of `Tone` values, 0 outside it.

    `transform` [2, 3] maps the shape's box to pixel coordinates (x, y).
    """
    import cv2

    tones = np.zeros((height, width), np.uint8)
    scale = 1 << SUBPIXEL_BITS
    corners = np.rint((shape.corners @ transform[:, :2].T + transform[:, 2]) * scale).astype(np.int32)
    for part, tone in zip(shape.parts, shape.tones, strict=True):
        cv2.fillPoly(tones, [corners[part]], int(tone), shift=SUBPIXEL_BITS)
    return tones


def _shape(name: str, entries: list[dict[str, Any]]) -> Shape:
    corners, tones = zip(*(_part(name, entry) for entry in entries), strict=True)
    ends = np.cumsum([len(polygon) for polygon in corners]).tolist()
    starts = [0, *ends[:-1]]
    return Shape(np.concatenate(corners), tuple(map(slice, starts, ends)), tones)


def _part(name: str, entry: dict[str, Any]) -> tuple[NDArray[np.float64], Tone]:
    entry = dict(entry)
    tone = entry.pop("tone", "fill")
    geometries = {"polygon": _polygon, "ellipse": _ellipse, "line": _line}
    if len(entry) != 1 or not set(entry) <= set(geometries):
        raise TCLError(f"{FILE}: a part of {name} must have one of {', '.join(geometries)}; got {sorted(entry)}")
    if tone.upper() not in Tone.__members__:
        raise TCLError(f"{FILE}: the tone of a part of {name} must be fill, dark, light or hole; got {tone!r}")
    (geometry, numbers), *_ = entry.items()
    return geometries[geometry](numbers), Tone[tone.upper()]


def _polygon(numbers: list[float]) -> NDArray[np.float64]:
    return np.asarray(numbers, np.float64).reshape(-1, 2)


def _ellipse(numbers: list[float]) -> NDArray[np.float64]:
    x, y, radius_x, radius_y = numbers
    angles = np.arange(ELLIPSE_CORNERS) * (2 * math.pi / ELLIPSE_CORNERS)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def _line(numbers: list[float]) -> NDArray[np.float64]:
    x0, y0, x1, y1, width = numbers
    start, end = np.array([x0, y0]), np.array([x1, y1])
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]]) * (width / 2)
    return np.stack([start + across, end + across, end - across, start - across])
