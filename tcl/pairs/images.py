"""Encoded images: opened by their headers, decoded as far as they are needed, cut out and resized."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tcl.errors import TCLError

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

SCALES = (8, 4, 2)
"""By how much a JPEG decoder may shrink an image as it decodes."""


def open_image(image: bytes) -> Image:
    """The image in `image` (JPEG, PNG or WebP), its header read and no more. Raises TCLError if it cannot be read."""
    import PIL.Image

    try:
        return PIL.Image.open(io.BytesIO(image))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise _unreadable(error) from None


def image_size(image: bytes) -> tuple[int, int]:
    """Width and height in pixels. Raises TCLError if the header cannot be read."""
    frame = _frame(image)
    return open_image(image).size if frame is None else (frame.width, frame.height)


def decoded(image: Image) -> Image:
    """An opened image, decoded to RGB. Raises TCLError if it cannot be."""
    try:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:
        raise _unreadable(error) from None


def resized_crop(image: bytes, box: Box, size: int) -> Image:
    """The part `box` of an encoded image, resized to `size` x `size` pixels (bilinear, smoothed where it shrinks).

    A JPEG whose box is at least twice as large as the result is decoded at a half, a quarter or an eighth of its size:
    as small as leaves no less than the result has. Else the pixels are those of Pillow's crop and resize, up to one
    level of rounding. Raises TCLError if the image cannot be decoded.
    """
    import PIL.Image

    left, top, right, bottom = box
    shortest = min(right - left, bottom - top)
    scale = next((scale for scale in SCALES if shortest >= scale * size), 1)
    opened = open_image(shortened_jpeg(image, bottom + _CONTEXT * scale))
    if scale > 1 and opened.draft(None, (opened.width // scale, opened.height // scale)) is not None:
        smaller = (left / scale, top / scale, right / scale, bottom / scale)
        return decoded(opened).resize((size, size), PIL.Image.Resampling.BILINEAR, box=smaller)
    return _resized(decoded(opened).crop(box), size)


def shortened_jpeg(image: bytes, rows: int) -> bytes:
    """A JPEG whose header claims no more than its first `rows` rows, so that a decoder skips the others.

    Any other file is returned as it is; so is a truncated JPEG, and a progressive one, which spreads each row over all
    of the file.
    """
    if (frame := _frame(image)) is None:
        return image
    start, end = frame.height_at, frame.height_at + 2
    return b"".join((image[:start], min(frame.height, rows).to_bytes(2, "big"), image[end:]))


class _Frame(NamedTuple):
    """What the frame header of a JPEG says, and at which byte the height stands in it."""

    width: int
    height: int
    height_at: int


def _frame(image: bytes) -> _Frame | None:
    """The frame of a whole sequential JPEG; None of any other file, and of one that Pillow may find too large."""
    if not (image.startswith(_START) and image.endswith(_END)):
        return None
    position = len(_START)
    while image[position] == _MARKER and image[position + 1] in _BEFORE_FRAME:
        position += 2 + int.from_bytes(image[position + 2 : position + 4], "big")
        if position + 9 > len(image):
            return None
    if image[position] != _MARKER or image[position + 1] not in _SEQUENTIAL:
        return None
    height, width = (int.from_bytes(image[start : start + 2], "big") for start in (position + 5, position + 7))
    return _Frame(width, height, position + 5) if 0 < width * height <= _LARGEST else None


_START, _END, _MARKER = b"\xff\xd8", b"\xff\xd9", 0xFF
_BEFORE_FRAME = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}  # tables, comments, applications' data
_SEQUENTIAL = {0xC0, 0xC1}
_LARGEST = 1 << 26  # pixels; Pillow warns of more than 1.3 times as many
_CONTEXT = 4  # rows of the result on which the one above depends, where colours have a lower resolution


def _resized(image: Image, size: int) -> Image:
    """What Pillow's resize gives of an RGB image, by torch's routine, which is several times faster on 8-bit pixels.

    They go there and back with the unused fourth byte that Pillow keeps of each pixel, as whole rows.
    """
    import PIL.Image
    import torch
    import torch.nn.functional as F

    pixels = torch.frombuffer(bytearray(image.tobytes("raw", "RGBX")), dtype=torch.uint8)
    channels_last = pixels.view(1, image.height, image.width, 4).permute(0, 3, 1, 2)  # as that routine wants it
    resized = F.interpolate(channels_last, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    return PIL.Image.frombytes("RGB", (size, size), resized.numpy(), "raw", "RGBX")


def _unreadable(error: Exception) -> TCLError:
    return TCLError(f"the image cannot be read: {type(error).__name__}: {error}")
