"""Training batches of image-text pairs as a plain webdataset + PIL + timm program loads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset
from torch import Tensor

from tcl.mends import import_open_clip, mend_torchvision

Triple = tuple[float, float, float]


def augmentation(size: int, mean: Triple, std: Triple) -> Any:
    """timm's transform of an image, with the values of the official configuration."""
    mend_torchvision()
    from timm.data.transforms_factory import create_transform

    return create_transform(
        size,
        is_training=True,
        scale=(0.08, 1.0),
        hflip=0.5,
        interpolation="bilinear",
        auto_augment="rand-m9-mstd0.5-inc1",
        re_prob=0.25,
        re_mode="pixel",
        mean=mean,
        std=std,
    )


def batches(shards: list[Path], *, size: int, batch: int, mean: Triple, std: Triple) -> Iterator[tuple[Tensor, Tensor]]:
    """Images [batch, 3, size, size] and tokens [batch, 77], without end; for one process."""
    import_open_clip()
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    pairs = webdataset.WebDataset([str(shard) for shard in shards], shardshuffle=len(shards)).shuffle(1000)
    tensors = (
        pairs.decode("pilrgb")
        .to_tuple("jpg", "txt")
        .map_tuple(augmentation(size, mean, std), lambda text: tokenizer(text)[0])
    )
    return iter(tensors.repeat().batched(batch))
