"""Pictures from anywhere: files, addresses, PIL images, arrays and tensors, all as RGB pixels."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from tcl.errors import TCLError

if TYPE_CHECKING:
    from torch import Tensor

Source: TypeAlias = "str | PathLike[str] | Picture | Image.Image | NDArray[Any] | Tensor"

FORMATS = {
    "JPEG": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm"),
}
"""What is decoded, and the suffixes of such files; other decoders of PIL may start programs or read other files."""
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MAX_PIXELS = 100_000_000
MAX_DOWNLOAD = 64 * 2**20
TIMEOUT = 30.0


@dataclass(frozen=True, eq=False)
class Picture:
    """Pixels, uint8 RGB [H, W, 3] in [0, 255], and the name of the file that they come from."""

    pixels: NDArray[np.uint8]
    name: str

    def within(self, side: int) -> Picture:
        """The picture scaled down until its longer side has at most `side` pixels."""
        height, width = self.pixels.shape[:2]
        if max(height, width) <= side:
            return self
        scale = side / max(height, width)
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        return Picture(np.array(Image.fromarray(self.pixels).resize(size, Image.Resampling.BILINEAR)), self.name)


def read_picture(source: Source, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Picture:
    """A picture as pixels.

    source: a path; an http(s) address; a picture read before; a PIL image; an array [H, W], [H, W, 1], [H, W, 3] or
    [H, W, 4]; a tensor with its channels first, [H, W], [1, H, W], [3, H, W] or [4, H, W]. Arrays and tensors are
    RGB(A), integers in [0, 255], uint16 in [0, 65535] or floats in [0, 1]. EXIF orientation is applied, alpha laid over
    white, the first frame of an animation taken. name: what errors and results call it, instead of the file's own name.

    Raises TCLError if it cannot be read, has no pixels or more than `max_pixels`, or holds values out of range.
    """
    if isinstance(source, (str, PathLike)):
        text = str(source)
        name = name or Path(text.split("?")[0]).name or text
        file = io.BytesIO(_download(text)) if is_address(text) else _existing(Path(text), name)
        return Picture(_decode(file, name, max_pixels), name)
    if isinstance(source, Picture):
        return source
    name = name or "picture"
    if isinstance(source, Image.Image):
        _check_size(source.width, source.height, name, max_pixels)
        return Picture(_rgb(source, name), name)
    values = np.asarray(source) if isinstance(source, np.ndarray) else _channels_last(source, name)
    return Picture(_from_array(values, name, max_pixels), name)


def is_address(text: str) -> bool:
    """Whether a text is the address of a picture rather than a path."""
    return text.startswith(("http://", "https://"))


def _existing(path: Path, name: str) -> Path:
    if not path.is_file():
        raise TCLError(f"{path}: there is no such file.")
    if path.stat().st_size == 0:
        raise TCLError(f"{name}: the file is empty.")
    return path


def _download(url: str) -> bytes:
    import http.client
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "tcl"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            content: bytes = answer.read(MAX_DOWNLOAD + 1)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise TCLError(f"{url}: could not be fetched ({error}).") from error
    if len(content) > MAX_DOWNLOAD:
        raise TCLError(f"{url}: more than {MAX_DOWNLOAD >> 20} MiB; fetch it by hand and give the file.")
    return content


def _decode(file: Path | io.BytesIO, name: str, max_pixels: int) -> NDArray[np.uint8]:
    Image.init()  # until then PIL knows some formats only
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's doubts about size and metadata; size is checked below
            with Image.open(file, formats=list(FORMATS)) as image:
                _check_size(image.width, image.height, name, max_pixels)
                image.load()
                return _rgb(image, name)
    except Image.DecompressionBombError:
        raise TCLError(f"{name}: has far more than the {max_pixels / 1e6:g} megapixels that are allowed.") from None
    except UnidentifiedImageError:
        raise TCLError(f"{name}: not a picture that can be read; known are {', '.join(FORMATS)}.") from None
    except TCLError:
        raise
    except Exception as error:  # a damaged file can fail in any way at all
        raise TCLError(f"{name}: a damaged picture, or one that is cut off ({error}).") from error


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if not 0 < width * height <= max_pixels:
        limit = f"must have 1 to {max_pixels / 1e6:g} million pixels"
        raise TCLError(f"{name}: a picture {limit}; it has {width} x {height}.")


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Any PIL image as pixels: upright, without alpha, 8 bits, RGB."""
    image = _upright(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = Image.fromarray(to_bytes(np.asarray(image), name))
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(layer, mask=layer.getchannel("A"))
    return np.array(image.convert("RGB"))


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # metadata that cannot be read says nothing about what is up
        return image


def _channels_last(source: Any, name: str) -> NDArray[Any]:
    import torch

    if not isinstance(source, torch.Tensor):
        kinds = "a path, an address, a PIL image, an array or a tensor"
        raise TCLError(f"a picture must be {kinds}; got {type(source).__name__}. Several of them go into a list.")
    tensor = source.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    if tensor.dim() == 2:
        return tensor.numpy()
    if tensor.dim() != 3 or tensor.shape[0] not in (1, 3, 4):
        shapes = "[H, W], [1, H, W], [3, H, W] or [4, H, W]"
        raise TCLError(f"{name}: a tensor must have shape {shapes}; got {list(tensor.shape)}.")
    return tensor.permute(1, 2, 0).numpy()


def _from_array(values: NDArray[Any], name: str, max_pixels: int) -> NDArray[np.uint8]:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim != 2 and not (values.ndim == 3 and values.shape[2] in (3, 4)):
        shapes = "[H, W], [H, W, 1], [H, W, 3] or [H, W, 4]"
        raise TCLError(f"{name}: an array must have shape {shapes}; got {list(values.shape)}.")
    _check_size(values.shape[1], values.shape[0], name, max_pixels)
    return _rgb(Image.fromarray(to_bytes(values, name)), name)


def to_bytes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Pixel values as uint8 in [0, 255]: integers as they are, 16 bits scaled down, floats in [0, 1] scaled up.

    Raises TCLError if a value is out of the range of its type.
    """
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "iuf":
        raise TCLError(f"{name}: pixels must be integers or floats; got {values.dtype}.")
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.floating):
        _check_range(name, low, high, 1.0)
        return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    unsigned = values.dtype.kind == "u" and values.dtype.itemsize == 2  # of either byte order
    if unsigned or (values.dtype == np.int32 and high > 255):  # as PIL gives some files of 16 bits
        _check_range(name, low, high, 65535)
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    _check_range(name, low, high, 255)
    return values.astype(np.uint8)


def _check_range(name: str, low: float, high: float, limit: float) -> None:
    if not (low >= -1e-6 and high <= limit + 1e-6):
        raise TCLError(f"{name}: pixel values must lie in [0, {limit:g}]; they reach from {low:g} to {high:g}.")
