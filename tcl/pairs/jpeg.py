"""What the header of a JPEG says, and a shorter image made of it, without decoding anything."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Frame(NamedTuple):
    """What the frame header of a JPEG says, and at which byte the height stands in it."""

    width: int
    height: int
    components: int
    height_at: int


def frame(image: bytes) -> Frame | None:
    """The frame of a whole sequential JPEG; None of any other file, and of one that Pillow may find too large."""
    if not (image.startswith(_START) and image.endswith(_END)):
        return None
    position = _first_other(image, len(_START), _BEFORE_FRAME)
    if image[position : position + 2] not in _SEQUENTIAL or position + 10 > len(image):
        return None
    height, width = (int.from_bytes(image[start : start + 2], "big") for start in (position + 5, position + 7))
    return Frame(width, height, image[position + 9], position + 5) if 0 < width * height <= _LARGEST else None


def shortened_jpeg(image: bytes, rows: int) -> bytes:
    """A JPEG whose header claims no more than its first `rows` rows, so that a decoder skips the others.

    Any other file is returned as it is; so is a truncated JPEG, and a progressive one, which spreads each row over all
    of the file.
    """
    if (found := frame(image)) is None:
        return image
    start, end = found.height_at, found.height_at + 2
    return b"".join((image[:start], min(found.height, rows).to_bytes(2, "big"), image[end:]))


def is_one_scan(image: bytes) -> bool:
    """Whether a JPEG is sequential, grey or of three colours, and all of its pixels are in one scan without a marker.

    Damage to such a file's pixels is no more than visible. Elsewhere it may end the decoding, and if other damage comes
    before, simplejpeg does not tell.
    """
    found = frame(image)
    if found is None or found.components not in (1, 3):
        return False
    scan = _first_other(image, found.height_at + 5 + 3 * found.components, _BEFORE_FRAME)
    length = 6 + 2 * found.components
    header = image[scan : scan + 2 + length]
    if header[:5] != bytes([0xFF, 0xDA, 0, length, found.components]) or header[-3:] != _ALL_FREQUENCIES:
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
