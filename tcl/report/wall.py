"""Many pictures as one wall: the same images down the rows; input, the methods and the ground truth across."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tcl.files import replacing

HEADER, GAP, LEGEND_LINE = 30, 6, 22


@dataclass(frozen=True)
class Wall:
    """lines: the panels of each image, under the titles. legend: the classes' colours as RGB in [0, 255]."""

    titles: Sequence[str]
    lines: Sequence[Sequence[Image.Image]]
    legend: Mapping[str, tuple[int, ...]]


def build_wall(folders: Mapping[str, Path], *, rows: int) -> Wall | None:
    """A wall of overlay pictures (`tcl.inference.overlays`); None if the methods have none in common.

    folders: overlay folder by the method's name, in the order of the columns.
    """
    names = [{file.name for file in folder.glob("*.png")} for folder in folders.values()]
    common = sorted(set.intersection(*names))[:rows] if names else []
    if not common:
        return None
    strips = [[Image.open(folder / name) for folder in folders.values()] for name in common]
    legend = {label: tuple(colour) for each in strips for strip in each for label, colour in _legend_of(strip)}
    return Wall(["image", *folders, "ground truth"], [_panels(each) for each in strips], legend)


def write_wall(path: Path, wall: Wall) -> None:
    """Write the wall as one picture with a legend."""
    picture = _assemble(wall)
    with replacing(path) as temporary:
        picture.save(temporary)


def _panels(strips: Sequence[Image.Image]) -> list[Image.Image]:
    """The image of the first strip, the prediction of each, and the ground truth."""
    height = int(strips[0].info["panel_height"])
    width = strips[0].width // 3

    def panel(strip: Image.Image, index: int) -> Image.Image:
        return strip.crop((index * width, 0, (index + 1) * width, height))

    return [panel(strips[0], 0), *(panel(strip, 2) for strip in strips), panel(strips[0], 1)]


def _legend_of(strip: Image.Image) -> list[tuple[str, list[int]]]:
    return [(str(name), colour) for name, colour in json.loads(strip.info["legend"])]


def _assemble(wall: Wall) -> Image.Image:
    titles, lines, legend = wall.titles, wall.lines, wall.legend
    column = max(panel.width for line in lines for panel in line) + GAP
    heights = [max(panel.height for panel in line) + GAP for line in lines]
    width = column * len(titles) - GAP
    font = ImageFont.load_default(16)
    places, legend_height = _flow(legend, width, font)
    picture = Image.new("RGB", (width, HEADER + sum(heights) + legend_height), "white")
    draw = ImageDraw.Draw(picture)
    for index, title in enumerate(titles):
        draw.text((index * column + 4, 6), title, fill="black", font=font)
    top = HEADER
    for line, height in zip(lines, heights, strict=True):
        for index, panel in enumerate(line):
            picture.paste(panel, (index * column, top))
        top += height
    for name, (x, y) in places.items():
        draw.rectangle((x, top + y + 4, x + 13, top + y + 17), fill=legend[name])
        draw.text((x + 18, top + y), name, fill="black", font=font)
    return picture


def _flow(
    legend: Mapping[str, tuple[int, ...]], width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> tuple[dict[str, tuple[int, int]], int]:
    """Positions of the legend's entries, line by line, and the height they take."""
    places: dict[str, tuple[int, int]] = {}
    x, y = 4, 0
    for name in sorted(legend):
        length = round(font.getlength(name)) + 36
        if x + length > width and x > 4:
            x, y = 4, y + LEGEND_LINE
        places[name] = (x, y)
        x += length
    return places, y + LEGEND_LINE + 4
