"""The official TCL's reference outputs, and our model with the reference's weights."""

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
from tcl.model.official import translate

REFERENCE = Path(__file__).parents[1] / "data" / "reference"


def official_weights() -> dict[str, Tensor]:
    """The reference model's weights by their official keys; token rows that no test uses are zero."""
    weights = load_file(REFERENCE / "weights.safetensors")
    embedding = torch.zeros(49408, 64)
    embedding[weights.pop("rows")] = weights.pop("token_rows")
    return {**weights, "clip_text_encoder.token_embedding.weight": embedding}


@pytest.fixture(scope="session")
def reference() -> Any:
    """Function: name of a reference file -> its arrays."""

    def arrays(name: str) -> Mapping[str, np.ndarray]:
        with np.load(REFERENCE / f"{name}.npz", allow_pickle=False) as file:
            return dict(file)

    return arrays


@pytest.fixture
def model() -> TCLSegmenter:
    """Our model with the reference's weights, float32."""
    return from_checkpoint(translate(official_weights(), source="reference"), source="reference")
