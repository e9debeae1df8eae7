"""What a loading process does: pairs read, decoded, augmented and tokenised, on one thread."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
import torch
import webdataset

from benchmarks.measure import Case
from tcl.model.ranks import Ranks
from tcl.pairs.manifest import Counts, Manifest
from tcl.pairs.scan import scan
from tcl.pairs.shards import PairReader
from tcl.training.data import MEAN, STD, training_batches
from tests.plain.pairs import batches as plain_batches

SIZES = ((512, 512), (640, 512), (768, 512), (683, 512), (512, 683))
"""Width and height: the shorter side is what img2dataset leaves of a larger image."""

BATCH, SIDE, PAIRS = 32, 224, 160


def cases(full: bool) -> Iterator[Case]:
    """Images as img2dataset leaves them, and twice as large."""
    for scale in (1, 2) if full else (1,):
        with TemporaryDirectory() as folder:
            yield case(Path(folder), scale)


def case(folder: Path, scale: int) -> Case:
    """Images of `scale` times `SIZES`."""
    write_shard(folder / "00000.tar", scale)
    manifest = Manifest("photos", None, Counts(PAIRS, PAIRS, {}), scan(folder).shards)
    ours = training_batches(
        [PairReader(folder, manifest)],
        augmentation="deit",
        image_size=SIDE,
        context_length=77,
        seed=0,
        global_batch=BATCH,
        steps=1 << 20,
        ranks=Ranks(),
        mask_grid=(SIDE // 4, SIDE // 4),
    )
    plain = plain_batches([folder / "00000.tar"], size=SIDE, batch=BATCH, mean=MEAN, std=STD)
    steps = iter(range(1 << 20))
    return Case(
        "input pipeline, one thread",
        f"{BATCH} JPEGs, shorter side {512 * scale}",
        on_one_thread(lambda: ours[next(steps)] and None),
        on_one_thread(lambda: next(plain) and None),
    )


def on_one_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """As in the worker process of a DataLoader."""

    def run() -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return work()
        finally:
            torch.set_num_threads(threads)

    return run


def write_shard(path: Path, scale: int) -> None:
    """Pictures of about 2 bits a pixel at quality 95, as photographs are, and captions."""
    with webdataset.TarWriter(str(path)) as tar:
        for number in range(PAIRS):
            width, height = SIZES[number % len(SIZES)]
            file = io.BytesIO()
            photo(number, scale * width, scale * height).save(file, "JPEG", quality=95)
            caption = f"person number {number} walks along the beach in the light of a late summer evening"
            tar.write({"__key__": f"{number:09d}", "jpg": file.getvalue(), "txt": caption, "json": {"key": number}})


def photo(seed: int, width: int, height: int) -> PIL.Image.Image:
    """Noise with the spectrum of a photograph: its amplitude falls with frequency, its channels resemble each other."""
    random = np.random.default_rng(seed)
    frequencies = np.hypot(height * np.fft.fftfreq(height)[:, None], width * np.fft.rfftfreq(width))
    phases = np.exp(2j * np.pi * random.random((4, *frequencies.shape)))
    grey, *colours = np.fft.irfft2(phases / np.maximum(frequencies, 1) ** 1.65, s=(height, width))
    pixels = np.stack([grey + 0.4 * colour for colour in colours], axis=-1)
    return PIL.Image.fromarray((120 + 55 * pixels / pixels.std()).clip(0, 255).astype(np.uint8))
