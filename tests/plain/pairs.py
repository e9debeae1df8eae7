"""Training batches of image-text pairs as a plain webdataset + PIL + timm program loads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import webdataset
from torch import Tensor

from tcl.mends import import_open_clip

Triple = tuple[float, float, float]


def batches(shards: list[Path], *, size: int, batch: int, mean: Triple, std: Triple) -> Iterator[tuple[Tensor, Tensor]]:
    """Images [batch, 3, size, size] and tokens [batch, 77], without end; for one process."""
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer
    from timm.data.transforms_factory import create_transform

    transform = create_transform(
        size,
        is_training=True,
        hflip=0.5,
        interpolation="bilinear",
        auto_augment="rand-m9-mstd0.5-inc1",
        re_prob=0.25,
        re_mode="pixel",
        mean=mean,
        std=std,
    )
    tokenizer = SimpleTokenizer()
    pairs = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=len(shards)).shuffle(1000)
    tensors = pairs.decode("pilrgb").to_tuple("jpg", "txt").map_tuple(transform, lambda text: tokenizer(text)[0])
    return iter(tensors.repeat().batched(batch))
