"""One picture of many: the same images down the rows; input, ground truth and the methods across."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tcl.files import replacing

HEADER, GAP, LEGEND_LINE = 30, 6, 22


def write_wall(path: Path, folders: Mapping[str, Path], *, rows: int) -> bool:
    """Write the wall from overlay pictures (`tcl.inference.overlays`); False if the methods have none in common.

    folders: overlay folder by the method's name, in the order of the columns.
    """
    names = [{file.name for file in folder.glob("*.png")} for folder in folders.values()]
    common = sorted(set.intersection(*names))[:rows] if names else []
    if not common:
        return False
    strips = {name: [Image.open(folder / name) for folder in folders.values()] for name in common}
    lines = [_panels(each) for each in strips.values()]
    legend = {label: tuple(colour) for each in strips.values() for s in each for label, colour in _legend_of(s)}
    picture = _assemble(["image", "ground truth", *folders], lines, legend)
    with replacing(path) as temporary:
        picture.save(temporary)
    return True


def _panels(strips: Sequence[Image.Image]) -> list[Image.Image]:
    """Image and ground truth of the first strip, then the prediction of each."""
    height = int(strips[0].info["panel_height"])
    width = strips[0].width // 3

    def panel(strip: Image.Image, index: int) -> Image.Image:
        return strip.crop((index * width, 0, (index + 1) * width, height))

    return [panel(strips[0], 0), panel(strips[0], 1), *(panel(strip, 2) for strip in strips)]


def _legend_of(strip: Image.Image) -> list[tuple[str, list[int]]]:
    return [(str(name), colour) for name, colour in json.loads(strip.info["legend"])]


def _assemble(
    titles: Sequence[str], lines: Sequence[Sequence[Image.Image]], legend: Mapping[str, tuple[int, ...]]
) -> Image.Image:
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
