"""Encoded images: opened by their headers, decoded as far as they are needed, cut out and resized."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tcl.errors import TCLError
from tcl.pairs.jpeg import frame, is_one_scan, shortened_jpeg

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""

SCALES = (8, 4, 2)
"""By how much a JPEG decoder may shrink an image as it decodes."""

CONTEXT = 4
"""Rows of the result on which the one above depends, where colours have a lower resolution."""


def open_image(image: bytes) -> Image:
    """The image in `image` (JPEG, PNG or WebP), its header read and no more. Raises TCLError if it cannot be read."""
    import PIL.Image

    try:
        return PIL.Image.open(io.BytesIO(image))
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise _unreadable(error) from None


def image_size(image: bytes) -> tuple[int, int]:
    """Width and height in pixels. Raises TCLError if the header cannot be read."""
    found = frame(image)
    return open_image(image).size if found is None else (found.width, found.height)


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
    if scale > 1:
        opened = open_image(shortened_jpeg(image, bottom + CONTEXT * scale))
        if opened.draft(None, (opened.width // scale, opened.height // scale)) is not None:
            smaller = (left / scale, top / scale, right / scale, bottom / scale)
            return decoded(opened).resize((size, size), PIL.Image.Resampling.BILINEAR, box=smaller)
    return _resized(cropped(image, box), size)


def cropped(image: bytes, box: Box) -> NDArray[np.uint8]:
    """The part `box` of an encoded image: [height, width, 4] uint8, the channels RGB and one without meaning.

    Its pixels are Pillow's. Raises TCLError if the image cannot be decoded.
    """
    import simplejpeg

    left, top, right, bottom = box
    needed = shortened_jpeg(image, bottom + CONTEXT)
    if is_one_scan(image):
        with suppress(ValueError):  # Pillow decodes it all the same, or says what is wrong with it
            return simplejpeg.decode_jpeg(needed, "RGBX", strict=False)[top:bottom, left:right]
    part = decoded(open_image(needed)).crop(box)
    return np.frombuffer(part.tobytes("raw", "RGBX"), np.uint8).reshape(part.height, part.width, 4)


def _resized(pixels: NDArray[np.uint8], size: int) -> Image:
    """What Pillow's resize gives of pixels [H, W, 4], by torch's routine, which is several times faster on bytes.

    Four channels go into it and out again faster than three, as Pillow keeps four bytes a pixel, too.
    """
    import PIL.Image
    import torch
    import torch.nn.functional as F

    channels_last = torch.from_numpy(np.array(pixels))[None].permute(0, 3, 1, 2)  # as that routine wants it
    resized = F.interpolate(channels_last, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    return PIL.Image.frombytes("RGB", (size, size), resized.numpy(), "raw", "RGBX")


def _unreadable(error: Exception) -> TCLError:
    return TCLError(f"the image cannot be read: {type(error).__name__}: {error}")
