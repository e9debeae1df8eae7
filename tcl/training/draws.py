"""Random numbers keyed by (seed, step, sample): the same on any number of ranks, after any restart."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Streams of the same key are independent of each other.
GUMBEL, PATCHES = 1, 2


def stream_seed(seed: int, step: int, sample: int, *, stream: int) -> int:
    """A 63-bit seed for torch's generators that depends on all of its arguments."""
    key = np.random.SeedSequence([seed, stream, step, sample]).generate_state(1, np.uint64)[0]
    return int(key >> np.uint64(1))


def uniform(seed: int, step: int, samples: range, shape: tuple[int, ...], *, stream: int = GUMBEL) -> Tensor:
    """Uniform draws in [0, 1), [len(samples), *shape] float32; row i depends on its key alone."""
    generator = torch.Generator()
    rows = []
    for sample in samples:
        generator.manual_seed(stream_seed(seed, step, sample, stream=stream))
        rows.append(torch.rand(shape, generator=generator))
    return torch.stack(rows)
