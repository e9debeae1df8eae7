"""Encoded images: opened by their headers, decoded as far as they are needed, cut out and resized."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
    if scale > 1:
        opened = open_image(shortened_jpeg(image, bottom + _CONTEXT * scale))
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
    needed = shortened_jpeg(image, bottom + _CONTEXT)
    if _is_one_scan(image):
        with suppress(ValueError):  # Pillow decodes it all the same, or says what is wrong with it
            return simplejpeg.decode_jpeg(needed, "RGBX", strict=False)[top:bottom, left:right]
    part = decoded(open_image(needed)).crop(box)
    return np.frombuffer(part.tobytes("raw", "RGBX"), np.uint8).reshape(part.height, part.width, 4)


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
    components: int
    height_at: int


def _frame(image: bytes) -> _Frame | None:
    """The frame of a whole sequential JPEG; None of any other file, and of one that Pillow may find too large."""
    if not (image.startswith(_START) and image.endswith(_END)):
        return None
    position = _first_other(image, len(_START), _BEFORE_FRAME)
    if image[position : position + 2] not in _SEQUENTIAL or position + 10 > len(image):
        return None
    height, width = (int.from_bytes(image[start : start + 2], "big") for start in (position + 5, position + 7))
    return _Frame(width, height, image[position + 9], position + 5) if 0 < width * height <= _LARGEST else None


def _is_one_scan(image: bytes) -> bool:
    """Whether a JPEG is sequential, grey or of three colours, and all of its pixels are in one scan without a marker.

    Damage to such a file's pixels is no more than visible. Elsewhere it may end the decoding, and if other damage comes
    before, simplejpeg does not tell.
    """
    frame = _frame(image)
    if frame is None or frame.components not in (1, 3):
        return False
    scan = _first_other(image, frame.height_at + 5 + 3 * frame.components, _BEFORE_FRAME)
    length = 6 + 2 * frame.components
    header = image[scan : scan + 2 + length]
    if header[:5] != bytes([0xFF, 0xDA, 0, length, frame.components]) or header[-3:] != _ALL_FREQUENCIES:
        return False
    data = np.frombuffer(image, np.uint8, offset=scan + len(header))
    return np.count_nonzero((data[:-1] == 0xFF) & (data[1:] != 0)) == 1  # markers, of which the last ends the file


def _first_other(image: bytes, position: int, segments: frozenset[bytes]) -> int:
    """Where the first segment begins whose marker is not in `segments`, from the one at `position` on."""
    while image[position : position + 2] in segments:
        position += 2 + int.from_bytes(image[position + 2 : position + 4], "big")
    return position


_START, _END = b"\xff\xd8", b"\xff\xd9"
_BEFORE_FRAME = frozenset(bytes([0xFF, kind]) for kind in (0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)))
_SEQUENTIAL = (b"\xff\xc0", b"\xff\xc1")
_ALL_FREQUENCIES = b"\x00\x3f\x00"
_LARGEST = 1 << 26  # pixels; Pillow warns of more than 1.3 times as many
_CONTEXT = 4  # rows of the result on which the one above depends, where colours have a lower resolution


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
