"""Encoded images: opened by their headers, decoded as far as they are needed, cut out and resized."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

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
    if not (image.startswith(_START) and image.endswith(_END)):
        return image
    position = len(_START)
    while image[position : position + 1] == b"\xff" and image[position + 1 : position + 2] not in _FRAMES:
        position += 2 + int.from_bytes(image[position + 2 : position + 4], "big")
    if image[position + 1 : position + 2] not in _SEQUENTIAL:
        return image
    start, end = position + 5, position + 7
    height = min(int.from_bytes(image[start:end], "big"), rows)
    return b"".join((image[:start], height.to_bytes(2, "big"), image[end:]))


_START, _END = b"\xff\xd8", b"\xff\xd9"
_SEQUENTIAL = {b"\xc0", b"\xc1"}
_FRAMES = {bytes([0xC0 + kind]) for kind in range(16) if kind % 4 or kind == 0}  # the others are no frames
_CONTEXT = 4  # rows of the result on which the one above depends, where colours have a lower resolution


def _resized(image: Image, size: int) -> Image:
    """What Pillow's resize gives, by torch's routine, which is several times faster on 8-bit pixels."""
    import PIL.Image
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(np.array(image))[None].permute(0, 3, 1, 2)  # channels last, as that routine wants it
    resized = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return PIL.Image.fromarray(resized[0].permute(1, 2, 0).numpy())


def _unreadable(error: Exception) -> TCLError:
    return TCLError(f"the image cannot be read: {type(error).__name__}: {error}")
