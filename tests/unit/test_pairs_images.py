"""Decoding no more than a crop needs, against Pillow's and timm's own ways."""

import io
import random

import numpy as np
import PIL.Image
import pytest
import simplejpeg
import torch

from tcl.errors import TCLError
from tcl.pairs.images import Box, cropped, decoded, image_size, open_image, resized_crop
from tcl.pairs.jpeg import shortened_jpeg
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
    plain, told = (encoded(image((40, 24), detail=4), "JPEG", exif=tags) for tags in (b"", turned()))
    assert open_image(told).getexif()[0x0112] == 6
    expected, found = (levels(resized_crop(data, (2, 2, 20, 22), 8)) for data in (plain, told))
    assert np.array_equal(found, expected)


def turned() -> bytes:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def files() -> dict[str, bytes]:
    """The same picture in many forms."""
    picture = image((83, 61), detail=4)
    several = {"save_all": True, "append_images": [image((83, 61))]}
    return {
        **{f"4:{kind}": encoded(picture, "JPEG", subsampling=f"4:{kind}") for kind in ("4:4", "2:2", "2:0")},
        "red, green, blue": encoded(picture, "JPEG", keep_rgb=True),
        "grey": encoded(picture.convert("L"), "JPEG"),
        "restarts": encoded(picture, "JPEG", restart_marker_blocks=3),
        "optimised": encoded(picture, "JPEG", optimize=True, quality=100),
        "turned": encoded(picture, "JPEG", exif=turned()),
        "CMYK": encoded(picture.convert("CMYK"), "JPEG"),
        "progressive": encoded(picture, "JPEG", progressive=True),
        "several": encoded(picture, "MPO", **several),
        "PNG": encoded(picture),
        "PNG, 16 bits": encoded(PIL.Image.fromarray(np.arange(83 * 61, dtype=np.uint16).reshape(61, 83) * 13)),
        **{f"PNG, {mode}": encoded(picture.convert(mode)) for mode in ("L", "LA", "P", "RGBA", "1")},
        "WebP": encoded(picture, "WEBP"),
    }


def pillows(data: bytes, box: Box) -> np.ndarray | None:
    """The part `box` of an image, as Pillow decodes it; None if it cannot."""
    try:
        return np.asarray(decoded(open_image(shortened_jpeg(data, box[3] + 4))).crop(box))
    except TCLError:
        return None


def ours(data: bytes, box: Box) -> np.ndarray | None:
    try:
        return cropped(data, box)[..., :3]
    except TCLError:
        return None


BOXES = ((0, 0, 83, 61), (3, 2, 40, 30), (17, 33, 83, 61), (50, 7, 51, 8))


@pytest.mark.parametrize("kind", files())
def test_size_and_pixels_are_pillows(kind: str) -> None:
    data = files()[kind]
    assert image_size(data) == open_image(data).size == (83, 61)
    for box in BOXES:
        expected = pillows(data, box)
        assert expected is not None
        assert np.array_equal(cropped(data, box)[..., :3], expected)


def test_only_simple_jpegs_are_not_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, calls, taken = simplejpeg.decode_jpeg, [], []

    def watched(*arguments: object, **settings: object) -> object:
        calls.append(arguments)
        return decode(*arguments, **settings)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    for kind, data in files().items():
        calls.clear()
        cropped(data, BOXES[1])
        taken += [kind] if calls else []
    assert taken == ["4:4:4", "4:2:2", "4:2:0", "red, green, blue", "grey", "optimised", "turned"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Pillow says of damaged metadata
def test_damage_has_the_effect_that_it_has_in_pillow() -> None:
    draws = np.random.default_rng(0)
    jpegs = [data for data in files().values() if data.startswith(b"\xff\xd8")]
    outcomes = []
    for number in range(600):
        data = bytearray(jpegs[number % len(jpegs)])
        header = data.index(b"\xff\xda") + 16
        for position in draws.integers(2, header if number % 2 else len(data) - 2, size=draws.integers(1, 4)):
            data[position] = draws.integers(256)
        if declared(data) not in ((83, 61), None):
            continue
        box = BOXES[number % len(BOXES)]
        expected, found = pillows(bytes(data), box), ours(bytes(data), box)
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            assert np.array_equal(found, expected)
        outcomes.append(found is None)
    assert 50 < sum(outcomes) < len(outcomes) - 50


def test_damage_to_a_table_after_other_damage_is_noticed() -> None:
    data = bytearray(files()["4:4:4"])
    table, scan = data.index(b"\xff\xc4"), data.index(b"\xff\xda")
    data[table + 5] = 200  # more codes of one bit than there are
    data[scan + 13] = 1  # decoders only warn of this
    with pytest.raises(TCLError, match="the image cannot be read: "):
        cropped(bytes(data), BOXES[0])


def declared(data: bytearray) -> tuple[int, int] | None:
    """Width and height that a file declares; None if it cannot be opened."""
    try:
        return image_size(bytes(data))
    except TCLError:
        return None


def test_a_size_that_pillow_refuses_is_refused() -> None:
    data = encoded(image(), "JPEG")
    height = data.index(b"\xff\xc0") + 5
    for side, message in ((65_500, "DecompressionBombError"), (0, "cannot identify")):
        changed = data[:height] + 2 * side.to_bytes(2, "big") + data[height + 4 :]
        with pytest.raises(TCLError, match=message):
            image_size(changed)


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
