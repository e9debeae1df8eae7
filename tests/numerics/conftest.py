"""The official TCL's reference outputs, and our model with the reference's weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tcl.inference.load import from_checkpoint
from tcl.inference.masks import TCLSegmenter
from tcl.model.build import TCLSizes
from tcl.model.clip import ClipSizes
from tcl.model.official import official_name, translate
from tcl.model.shapes import tcl_shapes

REFERENCE = Path(__file__).parents[1] / "data" / "reference"
SIZES = TCLSizes(
    ClipSizes(
        embed_dim=64,
        image_size=64,
        vision_width=128,
        vision_layers=3,
        vision_heads=2,
        text_width=64,
        text_layers=2,
        text_heads=1,
    ),
    frozen_blocks=2,
)
SMALL = ClipSizes(
    embed_dim=24,
    image_size=32,
    patch_size=8,
    vision_width=64,
    vision_layers=3,
    vision_heads=1,
    context_length=12,
    vocab_size=60,
    text_width=128,
    text_layers=1,
    text_heads=2,
)
SMALL_TCL = TCLSizes(SMALL, frozen_blocks=2, decoder_levels=1)
"""Sizes for tests that need no reference."""

OUR_NAMES = {official_name(key, frozen_blocks=2): key for key in tcl_shapes(SIZES)}
"""Our names of the reference model's parameters, by their official ones."""


def official_weights() -> dict[str, Tensor]:
    """The reference model's weights by their official keys; token rows that no test uses are zero."""
    weights, classes = (load_file(REFERENCE / f"{name}.safetensors") for name in ("weights", "class_tokens"))
    embedding = torch.zeros(49408, 64)
    embedding[weights.pop("rows").long()] = weights.pop("token_rows")
    embedding[classes["rows"].long()] = classes["token_rows"]
    return {**weights, "clip_text_encoder.token_embedding.weight": embedding}


def random_weights(sizes: TCLSizes, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a model of these sizes by their official names; every value differs from what a fresh model has."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in tcl_shapes(sizes).items():
        if key == "clip.logit_scale":
            continue
        draws = torch.randn(shape, generator=generator)
        fan_in = shape[0] if key.endswith("proj") or key.endswith("projection") else math.prod(shape[1:])
        normed = any(part in key for part in ("ln_", "norm")) and key.endswith("weight")
        value = 1 + 0.2 * draws if normed else draws / fan_in**0.5
        weights[official_name(key, frozen_blocks=sizes.frozen_blocks)] = value
    return weights


class Foreign:
    """Stands for the object of another library that the authors' files hold."""


def save_weights(path: Path, weights: Mapping[str, Any]) -> Path:
    """Write weights in the official layout, with what else the authors' files hold."""
    torch.save({"model": dict(weights), "optimizer": {"state": {}}, "step": 50000, "config": Foreign()}, path)
    return path


def sampled_like(tensor: Tensor, kind: str, expected: np.ndarray, *, samples: int = 256) -> Tensor:
    """Of a tensor what the reference keeps: all of it, or under a kind `...sample` evenly spaced values."""
    if not kind.endswith("sample"):
        return tensor
    return tensor.flatten()[:: tensor.numel() // samples][: len(expected)]


@pytest.fixture(scope="session")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model in the official layout."""
    return save_weights(tmp_path_factory.mktemp("official") / "tcl.pth", official_weights())


@pytest.fixture(scope="session")
def reference() -> Any:
    """Function: name of a reference file -> its arrays."""

    def arrays(name: str) -> Mapping[str, np.ndarray]:
        with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    return arrays


@pytest.fixture
def weights() -> dict[str, Tensor]:
    """Random weights of the small model by their official names."""
    return random_weights(SMALL_TCL)


def model_of(weights: Mapping[str, Tensor]) -> TCLSegmenter:
    """Our model with weights by their official names, float32, in eval mode."""
    return from_checkpoint(translate(weights, source="test"), source="test")


def reference_model() -> TCLSegmenter:
    """Our model with the reference's weights, float32, in eval mode."""
    return model_of(official_weights())


@pytest.fixture
def model() -> TCLSegmenter:
    """The reference model, anew for each test."""
    return reference_model()
