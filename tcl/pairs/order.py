"""The order in which training sees the pairs: a pure function of seed, step and shard sizes.

Two levels of shuffling. In every epoch the shards are put in a new random order and dealt into windows of
`WINDOW_SHARDS`; within a window all samples are permuted. So every epoch visits every sample once, at any moment only
the shards of one or two windows are read, and a batch is drawn from as many samples as a window holds: 80,000 with
full shards of 10,000, all of them if there are no more shards than fit in a window. Ranks, workers and restarts play
no part: step 30,000 is asked for like step 0.

The draws come from numpy's default generator, whose streams numpy may change in a new version: an exact continuation
needs the same numpy.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tcl.errors import TCLError

WINDOW_SHARDS = 8
_SHARDS, _SAMPLES = 0, 1  # keep the two levels' streams of random numbers apart


def batch(
    seed: int, step: int, *, size: int, shard_sizes: tuple[int, ...], window: int = WINDOW_SHARDS
) -> NDArray[np.int64]:
    """Indices [size] of the samples in global batch `step`, counted through all shards in their given order.

    Batches run across the borders of epochs. Raises TCLError if there are no samples.
    """
    total = sum(shard_sizes)
    if total == 0:
        raise TCLError("There are no image-text pairs to train on: every shard is empty.")
    position, end = step * size, (step + 1) * size
    parts = []
    while position < end:
        epoch, offset = divmod(position, total)
        starts = _window_starts(seed, epoch, shard_sizes, window)
        number = bisect_right(starts, offset) - 1
        first = offset - starts[number]
        part = _window(seed, epoch, number, shard_sizes, window)[first : first + end - position]
        parts.append(part)
        position += len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=4)
def _shard_order(seed: int, epoch: int, shards: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch, _SHARDS)).permutation(shards)


@lru_cache(maxsize=4)
def _window_starts(seed: int, epoch: int, shard_sizes: tuple[int, ...], window: int) -> list[int]:
    """Position within the epoch at which each window starts."""
    sizes = np.array(shard_sizes)[_shard_order(seed, epoch, len(shard_sizes))]
    ends = np.add.reduceat(sizes, np.arange(0, len(sizes), window)).cumsum()
    return [0, *ends[:-1].tolist()]


@lru_cache(maxsize=4)
def _window(seed: int, epoch: int, number: int, shard_sizes: tuple[int, ...], window: int) -> NDArray[np.int64]:
    """The samples of window `number` of an epoch, in their order."""
    shards = _shard_order(seed, epoch, len(shard_sizes))[number * window : (number + 1) * window]
    starts = np.concatenate([[0], np.cumsum(shard_sizes)])
    samples = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in shards])
    return np.random.default_rng((seed, epoch, _SAMPLES, number)).permutation(samples)
