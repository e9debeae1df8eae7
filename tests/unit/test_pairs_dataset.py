"""Augmentation and batches."""

import io
import random
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch.utils.data import DataLoader
from webdataset import TarWriter

from tcl.errors import TCLError
from tcl.pairs.dataset import FALLBACKS, PairBatch, PairBatches
from tcl.pairs.manifest import Counts, Manifest
from tcl.pairs.scan import scan
from tcl.pairs.shards import PairReader
from tcl.pairs.transforms import training_transform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image(seed: int = 0, size: tuple[int, int] = (32, 32)) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def encoded(picture: PIL.Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["deit", "flip"])
@pytest.mark.parametrize("size", [(32, 32), (50, 40), (20, 60)])
def test_transforms_give_normalised_squares(name: str, size: tuple[int, int]) -> None:
    out = training_transform(name, size=32, mean=MEAN, std=STD)(encoded(image(size=size)), (0,))
    assert (out.shape, out.dtype) == ((3, 32, 32), torch.float32)


@pytest.mark.parametrize("name", ["deit", "flip"])
def test_transforms_write_where_they_are_told(name: str) -> None:
    transform, batch = training_transform(name, size=32, mean=MEAN, std=STD), torch.full((3, 3, 32, 32), torch.nan)
    for number in range(20):
        found = transform(encoded(image(size=(50, 40))), (number,), out=batch[1])
        assert found.data_ptr() == batch[1].data_ptr()
        assert torch.equal(batch[1], transform(encoded(image(size=(50, 40))), (number,)))
    assert batch[[0, 2]].isnan().all()


def test_flip_keeps_or_mirrors_the_pixels_and_normalises() -> None:
    picture = image()
    transform = training_transform("flip", size=32, mean=MEAN, std=STD)
    plain = (
        torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)
    ) / torch.tensor(STD).view(3, 1, 1)
    mirrored = 0
    for seed in range(40):
        out = transform(encoded(picture), (seed,))
        flipped = torch.allclose(out, plain.flip(-1), atol=1e-6)
        assert flipped or torch.allclose(out, plain, atol=1e-6)
        mirrored += flipped
    assert 10 < mirrored < 30


def test_the_centre_is_cropped_after_resizing_the_shorter_side() -> None:
    wide = PIL.Image.new("RGB", (128, 64))
    wide.paste((255, 255, 255), (32, 0, 96, 64))
    out = training_transform("flip", size=32, mean=(0, 0, 0), std=(1, 1, 1))(encoded(wide), (0,))
    torch.testing.assert_close(out[:, :, 1:-1], torch.ones(3, 32, 30))


def test_an_unknown_transform_is_named() -> None:
    with pytest.raises(TCLError, match="not 'mixup'"):
        training_transform("mixup", size=32, mean=MEAN, std=STD)


@pytest.mark.parametrize("name", ["deit", "flip"])
def test_augmentation_depends_on_its_seed_alone(name: str) -> None:
    transform = training_transform(name, size=32, mean=MEAN, std=STD)
    first = [transform(encoded(image()), (1, step)) for step in range(12)]
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    again = [transform(encoded(image()), (1, step)) for step in reversed(range(12))][::-1]
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not all(torch.equal(first[0], other) for other in first[1:])


def test_loading_leaves_the_generators_as_they_were(readers: list[PairReader]) -> None:
    transform = training_transform("deit", size=8, mean=MEAN, std=STD)
    loading = PairBatches(readers, transform=transform, seed=1, global_batch=8, steps=10)

    def draws(*, between: bool) -> list[float]:
        random.seed(1), np.random.seed(2), torch.manual_seed(3)
        if between:
            loading[0]
        return [random.gauss(0, 1), float(np.random.normal()), torch.rand(()).item()]

    assert draws(between=True) == draws(between=False)


def write_source(folder: Path, shards: dict[str, list[tuple[str, bytes, str]]]) -> PairReader:
    """Write shards of (key, encoded image, caption) and open them."""
    folder.mkdir()
    for name, pairs in shards.items():
        with TarWriter(str(folder / name)) as tar:
            for key, data, caption in pairs:
                tar.write({"__key__": key, "png": data, "txt": caption})
    return PairReader(folder, Manifest(folder.name, "0" * 64, Counts(0, 0, {}), scan(folder).shards))


@pytest.fixture
def readers(tmp_path: Path) -> list[PairReader]:
    """Sources of 30 and 10 pairs in shards of 10; the image of "a 7" is broken."""

    def pair(source: str, number: int) -> tuple[str, bytes, str]:
        data = b"broken" if (source, number) == ("a", 7) else encoded(image(number, (8, 8)))
        return f"{number:09d}", data, f"{source} {number}"

    def shard(source: str, first: int) -> list[tuple[str, bytes, str]]:
        return [pair(source, number) for number in range(first, first + 10)]

    return [
        write_source(tmp_path / "a", {f"{number:05d}.tar": shard("a", number * 10) for number in range(3)}),
        write_source(tmp_path / "b", {"00000.tar": shard("b", 0)}),
    ]


def batches(readers: list[PairReader], **settings: int) -> PairBatches:
    transform = training_transform("flip", size=8, mean=MEAN, std=STD)
    return PairBatches(readers, transform=transform, seed=1, global_batch=8, steps=10, **settings)


def same(a: PairBatch, b: PairBatch) -> bool:
    rest = all(a[key] == b[key] for key in ("captions", "keys", "unreadable"))
    return rest and torch.equal(a["images"], b["images"])


def test_an_epoch_of_batches_holds_every_readable_pair(readers: list[PairReader]) -> None:
    epoch = [batches(readers)[step] for step in range(5)]
    captions = [caption for batch in epoch for caption in batch["captions"]]
    assert epoch[0]["images"].shape == (8, 3, 8, 8)
    assert len(captions) == 40
    expected = {f"a {i}" for i in range(30)} | {f"b {i}" for i in range(10)}
    assert expected - set(captions) == {"a 7"}
    assert sum(batch["unreadable"] for batch in epoch) >= 1


def test_ranks_share_the_global_batch(readers: list[PairReader]) -> None:
    whole = batches(readers)
    parts = [batches(readers, rank=rank, ranks=4) for rank in range(4)]
    for step in range(10):
        slices = [part[step] for part in parts]
        assert whole[step]["captions"] == [caption for part in slices for caption in part["captions"]]
        assert torch.equal(whole[step]["images"], torch.cat([part["images"] for part in slices]))
        assert whole[step]["unreadable"] == sum(part["unreadable"] for part in slices)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_anywhere(readers: list[PairReader], workers: int) -> None:
    expected = [batches(readers)[step] for step in range(10)]
    loader = DataLoader(batches(readers), batch_size=None, sampler=range(4, 10), num_workers=workers)
    found = list(loader)
    assert len(found) == 6
    assert all(same(a, b) for a, b in zip(found, expected[4:], strict=True))


def test_images_that_are_all_unreadable_end_the_training(tmp_path: Path) -> None:
    reader = write_source(tmp_path / "a", {"00000.tar": [("0", b"x", "a cat")]})
    with pytest.raises(TCLError, match=f"{FALLBACKS + 1} images in a row are unreadable"):
        batches([reader])[0]


def test_a_batch_that_ranks_cannot_share_is_refused(readers: list[PairReader]) -> None:
    with pytest.raises(TCLError, match=r"multiple of the ranks \(3\), not 8"):
        batches(readers, ranks=3)
