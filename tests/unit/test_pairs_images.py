"""Decoding no more than a crop needs, against Pillow's and timm's own ways."""

import io
import random

import numpy as np
import PIL.Image
import pytest
import torch

from tcl.errors import TCLError
from tcl.pairs.images import decoded, open_image, resized_crop, shortened_jpeg
from tcl.pairs.transforms import kept_generators, seed_generators, training_transform
from tests.plain.pairs import augmentation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image(size: tuple[int, int] = (32, 32), *, detail: int = 1) -> PIL.Image.Image:
    """Random pixels, or a random picture that is smooth over `detail` pixels."""
    shape = (size[1] // detail, size[0] // detail, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC)


def encoded(picture: PIL.Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def levels(picture: PIL.Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB")]
)
def test_every_image_becomes_rgb(kind: str, mode: str) -> None:
    data = encoded(image(detail=4).convert(mode), kind)
    whole = decoded(open_image(data))
    assert (whole.mode, whole.size) == ("RGB", (32, 32))
    cut = whole.crop((3, 2, 29, 30)).resize((16, 16), PIL.Image.Resampling.BILINEAR)
    assert abs(levels(resized_crop(data, (3, 2, 29, 30), 16)) - levels(cut)).max() <= 1
    assert resized_crop(data, (0, 0, 32, 32), 8).mode == "RGB"


@pytest.mark.parametrize("data", [b"", b"<html>", encoded(image(), "JPEG")[:300], encoded(image())[:1000]])
def test_an_unreadable_image_is_refused(data: bytes) -> None:
    with pytest.raises(TCLError, match="the image cannot be read: "):
        decoded(open_image(data))
    with pytest.raises(TCLError, match="the image cannot be read: "):
        resized_crop(data, (0, 0, 4, 4), 4)


def test_the_orientation_that_exif_tells_is_left_alone() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    plain, turned = (encoded(image((40, 24), detail=4), "JPEG", exif=tags) for tags in (b"", exif.tobytes()))
    assert open_image(turned).getexif()[0x0112] == 6
    expected, found = (levels(resized_crop(data, (2, 2, 20, 22), 8)) for data in (plain, turned))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_the_first_rows_do_not_depend_on_the_others(subsampling: int, scale: int) -> None:
    data = encoded(image((64, 97), detail=4), "JPEG", subsampling=subsampling)

    def rows(data: bytes) -> np.ndarray:
        opened = open_image(data)
        if scale > 1:
            opened.draft(None, (64 // scale, opened.height // scale))
        return levels(decoded(opened))

    whole = rows(data)
    for end in range(1, 98):
        needed = -(-end // scale)
        part = rows(shortened_jpeg(data, end + 4 * scale))
        assert np.array_equal(part[:needed], whole[:needed])
    assert len(rows(shortened_jpeg(data, 17))) == -(-17 // scale)


def test_only_whole_sequential_jpegs_are_shortened() -> None:
    picture = image((64, 96), detail=4)
    truncated = encoded(picture, "JPEG")[:-2]
    for data in (b"", b"\xff\xd8\xff\xd9", truncated, encoded(picture), encoded(picture, "JPEG", progressive=True)):
        assert shortened_jpeg(data, 8) == data
    with pytest.raises(TCLError, match="truncated"):
        resized_crop(truncated, (0, 0, 16, 16), 16)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_crop_is_what_pillow_makes_of_it_but_for_rounding(kind: str) -> None:
    picture = image((150, 110), detail=2)
    data = encoded(picture, kind, quality=95)
    whole, draws = decoded(open_image(data)), random.Random(0)
    for _ in range(50):
        left, top = draws.randrange(70), draws.randrange(40)
        box = (left, top, draws.randrange(left + 5, left + 79), draws.randrange(top + 5, 111))
        expected = whole.crop(box).resize((40, 40), PIL.Image.Resampling.BILINEAR)
        difference = abs(levels(resized_crop(data, box, 40)) - levels(expected))
        assert difference.max() <= 1
        assert difference.mean() < 0.05


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_reduced_decode_differs_little_from_a_whole_one(scale: int) -> None:
    picture = image((60 * scale, 50 * scale), detail=4 * scale)
    data, box = encoded(picture, "JPEG", quality=95), (3, 5, 3 + 45 * scale, 5 + 41 * scale)
    expected = decoded(open_image(data)).crop(box).resize((40, 40), PIL.Image.Resampling.BILINEAR)
    difference = levels(resized_crop(data, box, 40)) - levels(expected)
    assert difference.any()
    assert abs(difference).mean() < 2
    assert 10 * np.log10(255**2 / (difference**2).mean()) > 36


@pytest.mark.parametrize(("size", "reduced"), [((60, 50), False), ((20, 60), False), ((220, 160), True)])
def test_deit_is_timms_transform_but_for_the_resize(size: tuple[int, int], reduced: bool) -> None:
    ours = training_transform("deit", size=32, mean=MEAN, std=STD)
    from torchvision.transforms import Compose

    crop, *rest = augmentation(32, MEAN, STD).transforms
    data = encoded(image(size, detail=4), "JPEG")
    whole, reductions = decoded(open_image(data)), 0
    with kept_generators():
        for number in range(40):
            seed_generators((7, number))
            top, left, height, width = crop.get_params(whole, crop.scale, crop.ratio)
            reductions += min(width, height) >= 64
            part = resized_crop(data, (left, top, left + width, top + height), 32)
            expected = Compose(rest)(part)
            assert torch.equal(ours(data, (7, number)), expected)
    assert (reductions > 0) == reduced
