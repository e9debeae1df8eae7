"""Windows fade into each other: no step at their borders, whatever the windows say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tcl.inference.settings import InferenceSettings
from tcl.segmenter.blend import Blend, Window, blend_windows, ramp, window_grid


def blended(height: int, width: int, blend: Blend, *, window: int = 64, stride: int = 32, seed: int = 0) -> Tensor:
    """A mask [h, w] whose windows are 0 or 1 as a whole: the worst that neighbours can differ."""
    grid = window_grid(height, width, InferenceSettings(window=window, stride=stride))
    values = np.random.default_rng(seed).integers(0, 2, len(grid))
    masks = ((each, torch.full((1, each.height, each.width), float(v))) for each, v in zip(grid, values, strict=True))
    return blend_windows(masks, count=1, size=(height, width), overlap=window - stride, blend=blend)[0]


def greatest_step(mask: Tensor) -> float:
    steps = [mask.diff(dim=axis).abs().max() for axis in (0, 1) if mask.shape[axis] > 1]
    return float(torch.stack(steps).max()) if steps else 0.0


@given(
    st.integers(1, 300), st.integers(1, 300), st.sampled_from([(64, 32), (64, 48), (448, 224)]), st.integers(0, 2**16)
)
@settings(max_examples=80, deadline=None)
def test_steps_at_window_borders_are_bounded(height: int, width: int, sizes: tuple[int, int], seed: int) -> None:
    mask = blended(height, width, "feathered", window=sizes[0], stride=sizes[1], seed=seed)
    assert greatest_step(mask) <= 2 / (sizes[0] - sizes[1]) + 1e-6
    assert 0 <= mask.min() <= mask.max() <= 1


def test_uniform_blending_steps() -> None:
    assert greatest_step(blended(64, 300, "uniform")) >= 0.5


def test_equal_windows_blend_to_themselves() -> None:
    grid = window_grid(100, 201, InferenceSettings(window=64, stride=32))
    whole = torch.rand(2, 100, 201)
    parts = [(w, whole[:, w.top : w.top + w.height, w.left : w.left + w.width]) for w in grid]
    for blend in ("feathered", "uniform"):
        together = blend_windows(parts, count=2, size=(100, 201), overlap=32, blend=blend)
        torch.testing.assert_close(together, whole)


def test_picture_borders_do_not_fade() -> None:
    assert ramp(0, 64, 64, 32).eq(1).all()
    assert ramp(0, 64, 100, 32)[0] == 1
    assert ramp(36, 64, 100, 32)[-1] == 1
    assert ramp(36, 64, 100, 32)[0] == pytest.approx(0.5 / 32)


def test_windows_without_overlap() -> None:
    grid = [Window(0, 0, 4, 4), Window(0, 4, 4, 4)]
    parts = [(w, torch.full((1, 4, 4), float(i))) for i, w in enumerate(grid)]
    mask = blend_windows(parts, count=1, size=(4, 8), overlap=0, blend="feathered")
    assert mask[0, 0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
