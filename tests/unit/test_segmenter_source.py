"""Any picture in, the same pixels out: modes, depths, orientation, alpha, and what is refused."""

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tcl.errors import TCLError
from tcl.segmenter.source import read_picture

RNG = np.random.default_rng(0)
PIXELS: NDArray[np.uint8] = RNG.integers(0, 256, (24, 36, 3), dtype=np.uint8)
SMOOTH = np.asarray(Image.fromarray(PIXELS[:4, :6]).resize((36, 24), Image.Resampling.BICUBIC))
GREY = PIXELS[:, :, 0]


def pixels(source: Any) -> NDArray[np.uint8]:
    return read_picture(source).pixels


def saved(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "ppm", "webp"])
def test_lossless_files_give_their_pixels(suffix: str, tmp_path: Path) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(Image.fromarray(PIXELS), tmp_path / f"a.{suffix}", **options)
    picture = read_picture(path)
    assert picture.name == path.name
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    np.testing.assert_array_equal(pixels(str(path)), PIXELS)


def test_arrays_and_tensors() -> None:
    grey = np.repeat(GREY[:, :, None], 3, axis=2)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for source, expected in [
        (PIXELS, PIXELS),
        (Image.fromarray(PIXELS), PIXELS),
        (PIXELS.astype(np.int64), PIXELS),
        (PIXELS.astype(np.uint16) * 257, PIXELS),
        ((PIXELS.astype(np.uint16) * 257).astype(">u2"), PIXELS),
        (PIXELS / 255, PIXELS),
        ((PIXELS / 255).astype(np.float16), PIXELS),
        (GREY, grey),
        (GREY[:, :, None], grey),
        (GREY > 100, (grey > 100).astype(np.uint8) * 255),
        (tensor, PIXELS),
        (tensor / 255, PIXELS),
        ((tensor / 255).requires_grad_(), PIXELS),
        (tensor[:1], grey),
        (tensor[0], grey),
        (PIXELS[:, ::-1], PIXELS[:, ::-1]),
    ]:
        np.testing.assert_array_equal(pixels(source), expected)
    assert np.abs(pixels((tensor / 255).bfloat16()).astype(int) - PIXELS).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, tmp_path: Path) -> None:
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(undo[orientation](PIXELS))
    path = saved(Image.fromarray(stored), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(pixels(path), PIXELS)
    np.testing.assert_array_equal(pixels(Image.open(path)), PIXELS)


def test_alpha_lies_over_white(tmp_path: Path) -> None:
    alpha = np.where(np.arange(36) < 18, 255, 0)[None].repeat(24, axis=0).astype(np.uint8)
    rgba = np.dstack([PIXELS, alpha])
    expected = PIXELS.copy()
    expected[:, 18:] = 255
    grey = np.repeat(expected[:, :, :1], 3, axis=2)
    for source in (rgba, torch.from_numpy(rgba).permute(2, 0, 1), saved(Image.fromarray(rgba), tmp_path / "a.png")):
        np.testing.assert_array_equal(pixels(source), expected)
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    np.testing.assert_array_equal(pixels(saved(la, tmp_path / "la.png")), grey)
    np.testing.assert_array_equal(pixels(Image.fromarray(rgba).convert("RGBa"))[:, 18:], expected[:, 18:])


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    index = (np.arange(36) // 12)[None].repeat(24, axis=0).astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    np.testing.assert_array_equal(pixels(saved(image, tmp_path / "p.png")), colours[index])
    colours[1] = 255
    np.testing.assert_array_equal(pixels(saved(image, tmp_path / "t.png", transparency=1)), colours[index])


def test_sixteen_bits_grey_bilevel_and_cmyk(tmp_path: Path) -> None:
    wide = GREY.astype(np.uint16) * 257
    grey = np.repeat(GREY[:, :, None], 3, axis=2)
    for name in ("a.png", "a.tiff"):
        np.testing.assert_array_equal(pixels(saved(Image.fromarray(wide), tmp_path / name)), grey)
    (tmp_path / "a.pgm").write_bytes(b"P5 36 24 65535\n" + wide.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(tmp_path / "a.pgm"), grey)
    unit = Image.fromarray((GREY / 255).astype(np.float32))
    np.testing.assert_array_equal(pixels(saved(unit, tmp_path / "f.tiff")), grey)
    np.testing.assert_array_equal(pixels(saved(Image.fromarray(GREY), tmp_path / "g.png")), grey)
    bilevel = Image.fromarray(GREY > 100)
    np.testing.assert_array_equal(pixels(saved(bilevel, tmp_path / "b.png")), (grey > 100) * np.uint8(255))
    cmyk = saved(Image.fromarray(SMOOTH).convert("CMYK"), tmp_path / "c.jpg", quality=100, subsampling=0)
    assert np.abs(pixels(cmyk).astype(int) - SMOOTH).mean() < 4


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (36, 24), colour) for colour in ("red", "lime", "blue")]
    path = saved(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    assert (pixels(path) == (255, 0, 0)).all()


def test_one_pixel_and_thin_pictures() -> None:
    assert pixels(PIXELS[:1, :1]).shape == (1, 1, 3)
    assert pixels(np.zeros((1, 9000), np.uint8)).shape == (1, 9000, 3)


def test_too_many_pixels_are_refused_before_they_are_decoded(png_bomb: Path, tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(TCLError, match="far more than the 100 megapixels"):
        read_picture(png_bomb)
    with pytest.raises(TCLError, match=r"1 to 0\.0008 million pixels; it has 36 x 24"):
        read_picture(saved(Image.fromarray(PIXELS), tmp_path / "a.png"), max_pixels=800)
    assert tracemalloc.get_traced_memory()[1] < 5e6
    tracemalloc.stop()


def broken(tmp_path: Path) -> dict[str, Path]:
    whole = io.BytesIO()
    Image.fromarray(SMOOTH).resize((300, 200)).save(whole, "JPEG")
    contents = {
        "page.jpg": b"<!doctype html><html><body>not found</body></html>",
        "cut.jpg": whole.getvalue()[: len(whole.getvalue()) // 2],
        "empty.png": b"",
        "text.txt": b"hello",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in contents}


def test_broken_files_are_named(tmp_path: Path) -> None:
    for name, path in broken(tmp_path).items():
        with pytest.raises(TCLError, match=name):
            read_picture(path)
    with pytest.raises(TCLError, match=r"nowhere\.jpg: there is no such file"):
        read_picture(tmp_path / "nowhere.jpg")
    with pytest.raises(TCLError, match="no such file"):
        read_picture(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((4, 4, 2), np.uint8), r"\[4, 4, 2\]"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\[2, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "0"),
        (np.full((4, 4), 1.5), r"\[0, 1\]"),
        (np.full((4, 4), np.nan), "nan"),
        (np.full((4, 4), -1), "-1"),
        (np.full((4, 4), "a"), "integers or floats"),
        (torch.zeros(1, 3, 4, 4), r"\[1, 3, 4, 4\]"),
        (torch.zeros(5, 4, 4), r"\[5, 4, 4\]"),
        (7, "int"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_picture_is_refused(source: Any, message: str) -> None:
    with pytest.raises(TCLError, match=message):
        read_picture(source)


class Handler(BaseHTTPRequestHandler):
    """/picture.png is one; /endless never ends; everything else is missing."""

    def do_GET(self) -> None:
        if self.path.startswith("/picture.png"):
            buffer = io.BytesIO()
            Image.fromarray(PIXELS).save(buffer, "PNG")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(buffer.getvalue())
        elif self.path == "/endless":
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(1 << 20))
            except OSError:
                return
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_addresses(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = read_picture(f"{site}/picture.png?size=large")
    np.testing.assert_array_equal(picture.pixels, PIXELS)
    assert picture.name == "picture.png"
    with pytest.raises(TCLError, match="404"):
        read_picture(f"{site}/nothing.png")
    monkeypatch.setattr("tcl.segmenter.source.MAX_DOWNLOAD", 3 << 20)
    with pytest.raises(TCLError, match="more than 3 MiB"):
        read_picture(f"{site}/endless")
    with pytest.raises(TCLError, match="could not be fetched"):
        read_picture("http://127.0.0.1:9/a.png")


def test_smaller_for_display() -> None:
    picture = read_picture(np.zeros((300, 600, 3), np.uint8))
    assert picture.within(600) is picture
    assert picture.within(100).pixels.shape == (50, 100, 3)
    assert read_picture(np.zeros((1, 600), np.uint8)).within(100).pixels.shape == (1, 100, 3)
