"""The pair site: images, and a list of captions with the addresses of these, as CC3M's."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tcl.files import write_text
from tcl.world.jpeg import write_jpeg

LIST = "pairs.tsv"
NOT_AN_IMAGE = b"<!DOCTYPE html>\n<title>Image removed</title>\n<p>This image is no longer available.</p>\n"
"""What a host often sends in place of an image that it has removed."""


def address(number: int) -> str:
    """Address of an image relative to the site: images/000/000123.jpg for 123, a thousand to a folder."""
    return f"images/{number // 1000:03d}/{number:06d}.jpg"


def write_image(folder: Path, number: int, image: NDArray[np.uint8]) -> None:
    """Write an image, uint8 [H, W, 3] RGB, as JPEG of quality 95 under its address."""
    write_jpeg(folder / address(number), image)


def write_broken_image(folder: Path, number: int) -> None:
    """Write something that is not an image under an image's address."""
    path = folder / address(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(NOT_AN_IMAGE)


def write_list(folder: Path, captions: Sequence[str]) -> None:
    """Write pairs.tsv: a line caption<TAB>address for every pair, in order, without a header.

    The addresses are relative; whoever downloads puts the address of the server before them.
    """
    lines = (f"{caption}\t{address(number)}\n" for number, caption in enumerate(captions))
    write_text(folder / LIST, "".join(lines))
