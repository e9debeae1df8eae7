"""Scenes: bands of stuff, things before them, and the light they are seen in.

Inside this module a picture in the making is float32 [3, H, W], RGB in [0, 1]: channels first are twice as fast here.
"""

import colorsys
import math
from functools import cache
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tcl.errors import TCLError
from tcl.world import shapes, textures
from tcl.world.vocabulary import Colour, WorldClass, classes, index

T = TypeVar("T")
Setting = Literal["any", "street"]
Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]

# How often each place is shown, for each setting.
PLACES = {"any": {"outdoor": 0.45, "indoor": 0.3, "street": 0.25}, "street": {"street": 1.0}}
# The bands of a scene from top to bottom, and how often. A single band may be any stuff of the place.
BANDS = {
    ("",): 0.30,
    ("top", "middle"): 0.10,
    ("top", "bottom"): 0.15,
    ("middle", "bottom"): 0.20,
    ("top", "middle", "bottom"): 0.25,
}
MISPLACED = 0.1
PLACE_PREFERENCE, NEAR_PREFERENCE = 2.5, 2.0
RADIUS = (0.20, 0.38)
SMALLEST_SIDE = 16


class Scene(NamedTuple):
    """A picture and its truth: `image` uint8 [H, W, 3], RGB in [0, 255]; `labels` uint8 [H, W], world class index."""

    image: NDArray[np.uint8]
    labels: Labels


def render(rng: np.random.Generator, *, height: int, width: int, setting: Setting = "any") -> Scene:
    """Draw one random scene: 1-3 bands of stuff and 1-3 things of radius 0.20-0.38 of the shorter side.

    The scene is a function of the generator's state alone. `street` shows only classes that Cityscapes labels.
    Raises TCLError for a side under 16 pixels or an unknown setting.
    """
    if min(height, width) < SMALLEST_SIDE or setting not in PLACES:
        rule = f"a scene needs sides of at least {SMALLEST_SIDE} pixels and a setting of {sorted(PLACES)}"
        raise TCLError(f"{rule}; got {height} x {width} and {setting!r}")
    place = _pick(rng, PLACES[setting])
    stuff = _choose_stuff(rng, place, setting)
    image, labels = _paint_stuff(rng, stuff, height=height, width=width)
    for label in _choose_things(rng, place, setting, stuff):
        _add_thing(rng, label, image, labels)
    return Scene(_light(rng, image), labels)


@cache
def members(kind: str, place: str, zone: str = "") -> tuple[int, ...]:
    """Class indices of a kind (thing or stuff) that belong to a place, or to "any"; of one zone, if given."""
    return tuple(
        i
        for i, entry in enumerate(classes())
        if entry.kind == kind and (place == "any" or place in entry.places) and zone in ("", entry.zone)
    )


def _pick(rng: np.random.Generator, shares: dict[T, float]) -> T:
    """One of the keys, drawn with its share; the shares add up to 1."""
    threshold = rng.random()
    for item, share in shares.items():
        threshold -= share
        if threshold < 0:
            return item
    return next(reversed(shares))


def _choose_stuff(rng: np.random.Generator, place: str, setting: Setting) -> list[int]:
    """Class indices from the top band to the bottom one."""
    if rng.random() < MISPLACED:
        place = setting
    candidates = [members("stuff", place, zone) for zone in _pick(rng, BANDS)]
    return [choices[rng.integers(len(choices))] for choices in candidates]


def _paint_stuff(rng: np.random.Generator, stuff: list[int], *, height: int, width: int) -> tuple[Floats, Labels]:
    """The bands as a picture [3, H, W] and labels [H, W]; all but the first have a random upper border."""
    labels = np.full((height, width), stuff[0], np.uint8)
    image = np.empty((3, height, width), np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None]
    for position, label in enumerate(stuff):
        entry = classes()[label]
        start = height * (position / len(stuff) + 0.12 * rng.uniform(-1, 1))
        inside = rows >= start + height * _outline(rng, entry.edge, width) if position else rows >= 0
        labels[np.broadcast_to(inside, labels.shape)] = label
        mixed = textures.blend(rng, entry.texture, height=height, width=width, side=min(height, width))
        np.copyto(image, _mix(mixed, *_colours(rng, entry)), where=inside)
    return image, labels


def _outline(rng: np.random.Generator, edge: str, width: int) -> Floats:
    """Offset of a band's upper border [W], as a part of the height, negative upwards."""
    columns = np.arange(width, dtype=np.float32) / np.float32(width)
    if edge == "peaks":
        knots, heights = np.sort(rng.random(4)) * 1.3 - 0.15, np.array([0.04, -0.18, 0.06, -0.14])
        return np.asarray(np.interp(columns, knots, heights * rng.uniform(0.7, 1.3, 4)), np.float32)
    if edge == "steps":
        heights = rng.uniform(-0.15, 0.08, rng.integers(3, 6))
        return np.asarray(heights[(columns * len(heights)).astype(np.intp)], np.float32)
    frequency, phase, tilt = rng.uniform(2, 4), rng.random(), rng.uniform(-0.06, 0.06)
    swing = np.sin((columns * np.float32(frequency) + np.float32(phase)) * np.float32(math.pi))
    if edge == "bumps":
        return np.asarray(-0.12 * np.abs(swing), np.float32)
    height = 0.03 if edge == "wave" else 0
    return np.asarray(tilt * (columns - 0.5) + height * swing, np.float32)


def _choose_things(rng: np.random.Generator, place: str, setting: Setting, stuff: list[int]) -> list[int]:
    """One to three different things; those of the place, and those seen near its stuff, come more often."""
    candidates = members("thing", setting)
    names = {classes()[label].name for label in stuff}
    weights = np.array([_affinity(classes()[label], place, names) for label in candidates])
    # The largest u^(1/w) make a weighted draw without replacement.
    keys = rng.random(len(candidates)) ** (1 / weights)
    return [candidates[i] for i in np.argsort(keys)[-rng.integers(1, 4) :]]


def _affinity(thing: WorldClass, place: str, stuff: set[str]) -> float:
    return (PLACE_PREFERENCE if place in thing.places else 1.0) * (NEAR_PREFERENCE if thing.near & stuff else 1.0)


def _add_thing(rng: np.random.Generator, label: int, image: Floats, labels: Labels) -> None:
    """Draw a thing over `image` [3, H, W] and `labels` [H, W], in place."""
    height, width = labels.shape
    side = min(height, width)
    thing = classes()[label]
    radius = side * rng.uniform(*RADIUS)
    transform = _transform(rng, radius, _centre(rng, thing, labels, radius))
    tones = shapes.draw(shapes.shapes()[thing.name], transform, height=height, width=width)
    rows, columns = np.flatnonzero(tones.any(axis=1)), np.flatnonzero(tones.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    tone = tones[box]
    first, second = _colours(rng, thing)
    mixed = textures.blend(rng, thing.texture, height=tone.shape[0], width=tone.shape[1], side=side)
    paint = _mix(mixed, first, second)
    middle = (first + second) / 2
    np.copyto(paint, 0.35 * middle, where=tone == shapes.Tone.DARK)
    np.copyto(paint, 0.35 * middle + np.float32(0.62), where=tone == shapes.Tone.LIGHT)
    np.copyto(image[:, box[0], box[1]], paint, where=tone > 0)
    labels[box][tone > 0] = label


def _centre(rng: np.random.Generator, thing: WorldClass, labels: Labels, radius: float) -> tuple[float, float]:
    """Where the thing stands, as (x, y) in pixels: half of the time on stuff it is seen near, if there is some."""
    height, width = labels.shape
    margin = 0.8 * radius
    x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
    if rng.random() < 0.5:
        column = labels[:, int(x)]
        near = np.flatnonzero(np.logical_or.reduce([column == index(name) for name in thing.near]))
        if len(near):
            y = min(max(near[rng.integers(len(near))] - 0.3 * radius, margin), height - margin)
    return x, float(y)


def _transform(rng: np.random.Generator, radius: float, centre: tuple[float, float]) -> NDArray[np.float64]:
    """A map [2, 3] from a shape's box to pixels: mirrored half of the time, a little stretched and turned."""
    stretch, angle = rng.uniform(0.88, 1.12), math.radians(rng.uniform(-8, 8))
    scale_x, scale_y = radius * stretch * (1 if rng.random() < 0.5 else -1), radius / stretch
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos * scale_x, -sin * scale_y, centre[0]], [sin * scale_x, cos * scale_y, centre[1]]])


def _colours(rng: np.random.Generator, entry: WorldClass) -> tuple[Floats, Floats]:
    """A class's two colours [3, 1, 1] as this scene shows them, both shifted alike: RGB in [0, 1]."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * (8, 0.08, 0.08)
    first, second = entry.colours
    return _rgb(first, hue, 1 + saturation, 1 + value), _rgb(second, hue, 1 + saturation, 1 + value)


def _rgb(colour: Colour, hue_shift: float, saturation_factor: float, value_factor: float) -> Floats:
    hue, saturation, value = (colour[0] + hue_shift) / 360 % 1, colour[1] * saturation_factor, colour[2] * value_factor
    return np.array(colorsys.hsv_to_rgb(hue, min(saturation, 1), min(value, 1)), np.float32).reshape(3, 1, 1)


def _mix(blend: Floats, first: Floats, second: Floats) -> Floats:
    """Colours [3, 1, 1] mixed by a blend [h, w]: [3, h, w]."""
    return first + blend * (second - first)


def _light(rng: np.random.Generator, image: Floats) -> NDArray[np.uint8]:
    """Uneven light, a colour cast and sensor noise on a picture [3, H, W]; gives uint8 [H, W, 3]."""
    _, height, width = image.shape
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.25)
    x = np.arange(width, dtype=np.float32) * np.float32(2 * strength * math.cos(angle) / width)
    y = np.arange(height, dtype=np.float32)[:, None] * np.float32(2 * strength * math.sin(angle) / height)
    level = np.float32(1 - strength * (math.cos(angle) + math.sin(angle))) + x + y
    cast = (rng.uniform(0.9, 1.08) * rng.uniform(0.94, 1.06, (3, 1, 1))).astype(np.float32)
    noise = (rng.random(image.shape, np.float32) - np.float32(0.5)) * np.float32(rng.uniform(0.03, 0.14))
    lit = np.clip((image * (level * cast) + noise) * 255 + np.float32(0.5), 0, 255)
    return np.ascontiguousarray(lit.astype(np.uint8).transpose(1, 2, 0))
