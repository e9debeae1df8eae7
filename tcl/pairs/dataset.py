"""Training batches: one item a step, the same whoever asks for it and whenever."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tcl.errors import TCLError
from tcl.pairs.order import batch
from tcl.pairs.shards import PairReader
from tcl.pairs.transforms import Transform, kept_generators

FALLBACKS = 20
"""Tries to replace one unreadable image before the data is held to be unusable."""

_AUGMENTATION, _FALLBACK = 0, 1  # keep the two streams of random numbers apart


class PairBatch(TypedDict):
    """This rank's part of one global batch of b samples a rank."""

    images: Tensor  # [b, 3, H, W] float32, normalised
    captions: list[str]
    keys: list[str]  # source/key of the samples that were used
    unreadable: int  # images that could not be read, each replaced by another sample


class _Sample(NamedTuple):
    caption: str
    key: str
    unreadable: int


class PairBatches(Dataset[PairBatch]):
    """Item `step` is rank `rank`'s slice of global batch `step` of all `readers` together.

    Which samples it holds depends on (seed, step) and the manifests, the augmentation of each on (seed, step, position
    in the global batch): ranks and workers only share the work out. Made for
    `DataLoader(batches, batch_size=None, sampler=range(start, steps))`, so that resuming is another range.
    """

    def __init__(
        self,
        readers: Sequence[PairReader],
        *,
        transform: Transform,
        seed: int,
        global_batch: int,
        steps: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Raises TCLError if the global batch cannot be shared out evenly among the ranks, or there are no pairs."""
        if global_batch < 1 or global_batch % ranks:
            raise TCLError(f"The global batch must be a positive multiple of the ranks ({ranks}), not {global_batch}.")
        self.readers = tuple(readers)
        self.transform, self.seed, self.steps = transform, seed, steps
        self.global_batch, self.local_batch, self.rank = global_batch, global_batch // ranks, rank
        self._shard_sizes = tuple(size for reader in self.readers for size in reader.shard_sizes)
        self._ends = list(accumulate(len(reader) for reader in self.readers))
        if not self._ends or self._ends[-1] == 0:
            raise TCLError("There are no image-text pairs to train on.")

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> PairBatch:
        """Raises IndexError beyond the last step, TCLError if a shard is lost or images cannot be replaced."""
        if not 0 <= step < self.steps:
            raise IndexError(f"steps are 0 to {self.steps - 1}, not {step}")
        indices = batch(self.seed, step, size=self.global_batch, shard_sizes=self._shard_sizes)
        first = self.rank * self.local_batch
        positions = range(first, first + self.local_batch)
        images = torch.empty(self.local_batch, 3, self.transform.size, self.transform.size)
        with kept_generators():
            samples = [
                self._sample(int(indices[position]), step, position, image)
                for position, image in zip(positions, images, strict=True)
            ]
        return PairBatch(
            images=images,
            captions=[sample.caption for sample in samples],
            keys=[sample.key for sample in samples],
            unreadable=sum(sample.unreadable for sample in samples),
        )

    def _sample(self, index: int, step: int, position: int, image: Tensor) -> _Sample:
        """Sample `index`, or the first readable one of those that stand in for it, its image written into `image`."""
        seed = (self.seed, step, position)
        for unreadable, candidate in enumerate(self._candidates(index, seed)):
            reader, local = self._locate(candidate)
            pair = reader.read(local)
            key = f"{reader.source}/{pair.key}"
            try:
                self.transform(pair.image, (*seed, _AUGMENTATION), out=image)
            except TCLError as error:
                last = f"pair {key}: {error}"
                continue
            return _Sample(pair.caption, key, unreadable)
        raise TCLError(f"{FALLBACKS + 1} images in a row are unreadable; verify the shards. The last: {last}.")

    def _candidates(self, index: int, seed: tuple[int, ...]) -> Iterator[int]:
        yield index
        yield from np.random.default_rng((*seed, _FALLBACK)).integers(self._ends[-1], size=FALLBACKS).tolist()

    def _locate(self, index: int) -> tuple[PairReader, int]:
        """The reader that has sample `index` of all, and the sample's number there."""
        number = bisect_right(self._ends, index)
        reader = self.readers[number]
        return reader, index - self._ends[number] + len(reader)
