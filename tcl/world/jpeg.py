"""Pictures as JPEG files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

QUALITY = 95


def write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write an image, uint8 [H, W, 3] RGB, as JPEG of quality 95, and make the folders above it."""
    import cv2

    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.tobytes())
