"""A model and pictures to time: ViT-B/16 with random weights, pictures of smooth blobs."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.measure import DEVICE
from tcl.inference.masks import TCLSegmenter
from tcl.model.build import TCLSizes, blank
from tcl.model.clip import ClipSizes
from tcl.model.grounder import DecoderLevel

SIZES = TCLSizes(ClipSizes())


@lru_cache(maxsize=1)
def segmenter() -> TCLSegmenter:
    """A TCL of the paper's sizes whose decoder does something."""
    torch.manual_seed(0)
    model = blank(SIZES, TCLSegmenter).eval().requires_grad_(False)
    for level in model.grounder.levels:
        assert isinstance(level, DecoderLevel)
        level.first.gate.fill_(0.5)
        level.second.gate.fill_(0.5)
    return model.to(DEVICE)


def embeddings(classes: int) -> Tensor:
    """Random class embeddings [N, D] of length 1."""
    drawn = torch.randn(classes, SIZES.clip.embed_dim, generator=torch.Generator().manual_seed(classes))
    return torch.nn.functional.normalize(drawn, dim=1).to(DEVICE)


def picture(width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]."""
    small = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
