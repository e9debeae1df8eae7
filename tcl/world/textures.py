"""Textures: patterns on a pixel grid that say how much of a class's second colour each pixel takes.

Every function takes pixel coordinates `x` and `y` [h, w] (float32, already rotated by the texture's angle and divided
by its period, so that the pattern repeats every 1.0) and gives a blend [h, w] in [0, 1].
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tcl.world.vocabulary import Texture

Field = NDArray[np.float32]
PERIOD_JITTER = 0.15
ANGLE_JITTER = 8.0


def blend(rng: np.random.Generator, texture: Texture, *, height: int, width: int, side: float) -> Field:
    """A random instance of `texture`, as a blend [height, width] in [0, 1]; its period is a part of `side` pixels.

    Raises KeyError for a kind that is not in `KINDS`.
    """
    jitter = rng.random(4)
    period = texture.period * side * (1 + PERIOD_JITTER * (2 * jitter[0] - 1))
    angle = math.radians(texture.angle + ANGLE_JITTER * (2 * jitter[1] - 1))
    cos, sin = math.cos(angle) / period, math.sin(angle) / period
    column = np.arange(width, dtype=np.float32)
    row = np.arange(height, dtype=np.float32)[:, None]
    # Far from zero, so that no coordinate is negative.
    x = column * np.float32(cos) + row * np.float32(sin) + np.float32(64 + jitter[2])
    y = row * np.float32(cos) - column * np.float32(sin) + np.float32(64 + jitter[3])
    return KINDS[texture.kind](rng, x, y)


def plain(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Nearly one colour: a weak, smooth unevenness."""
    return np.asarray(0.35 * smooth(rng, x, y), np.float32)


def stripes(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Bands along x."""
    return _sharpen(np.sin(y * np.float32(2 * math.pi)))


def waves(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Bands along x that swing up and down."""
    swing = np.float32(0.28) * np.sin(x * np.float32(0.9 * math.pi))
    return _sharpen(np.sin((y + swing) * np.float32(2 * math.pi)))


def checker(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """A chessboard with fields of half a period."""
    return np.asarray((x * 2).astype(np.int32) + (y * 2).astype(np.int32) & 1, np.float32)


def dots(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """One round dot a cell."""
    dx, dy = x - np.floor(x) - np.float32(0.5), y - np.floor(y) - np.float32(0.5)
    return np.asarray(dx * dx + dy * dy < 0.1, np.float32)


def scales(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Rows of arcs, every other one shifted by half a cell, like feathers."""
    row = np.floor(y)
    dx = np.mod(x + np.float32(0.5) * np.mod(row, 2), 1) - np.float32(0.5)
    return np.asarray(np.hypot(dx, y - row) > 0.6, np.float32)


def bricks(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Courses of bricks, twice as wide as high, with mortar between them."""
    course = y * np.float32(1.6)
    row = np.floor(course)
    dx = np.mod(np.float32(0.8) * x + np.float32(0.5) * np.mod(row, 2), 1)
    return np.asarray((course - row < 0.28) | (dx < 0.14), np.float32)


def windows(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """A grid of lit windows in a front."""
    dx, dy = x - np.floor(x), y - np.floor(y)
    return np.asarray((dx > 0.3) & (dx < 0.8) & (dy > 0.25) & (dy < 0.8), np.float32)


def blotches(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Irregular patches with soft borders."""
    return np.asarray(np.clip((smooth(rng, x, y) - np.float32(0.5)) * 5 + np.float32(0.5), 0, 1), np.float32)


def grain(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Short fibres across x: noise that is long in one direction."""
    return smooth(rng, x, y, stretch=3)


def speckle(rng: np.random.Generator, x: Field, y: Field) -> Field:
    """Fine noise without a direction."""
    return rng.random(x.shape, dtype=np.float32)


def smooth(rng: np.random.Generator, x: Field, y: Field, *, stretch: float = 1) -> Field:
    """Random values one period apart, interpolated; `stretch` lengthens them along the picture's y axis."""
    import cv2

    height, width = x.shape
    period = 1 / max(math.hypot(float(x[0, 1] - x[0, 0]), float(y[0, 1] - y[0, 0])), 1e-6) if width > 1 else 1.0
    rows, columns = math.ceil(height / (period * stretch)) + 1, math.ceil(width / period) + 1
    coarse = rng.random((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _sharpen(wave: Field) -> Field:
    return np.asarray(np.clip(wave * np.float32(1.5) + np.float32(0.5), 0, 1), np.float32)


KINDS: dict[str, Callable[[np.random.Generator, Field, Field], Field]] = {
    function.__name__: function
    for function in (plain, stripes, waves, checker, dots, scales, bricks, windows, blotches, grain, speckle)
}
