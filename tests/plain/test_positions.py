"""Positions resized by two products equal those of bicubic interpolation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from tcl.model.clip import resize_positions


def interpolated(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    side = round((len(positions) - 1) ** 0.5)
    square = positions[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:1], resized.flatten(2)[0].T])


def draw(side: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    drawn = torch.randn(1 + side**2, 24, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return drawn.to(device)


@pytest.mark.parametrize("grid", [(28, 28), (28, 37), (14, 15), (7, 9), (1, 1), (100, 14), (4, 49)])
def test_equal(grid: tuple[int, int], device: torch.device) -> None:
    positions, exact = draw(14, device), draw(14, device, torch.float64)
    assert_close(resize_positions(exact, grid), interpolated(exact, grid), rtol=0, atol=1e-13)
    assert_close(resize_positions(positions, grid), interpolated(positions, grid), rtol=0, atol=2e-6)


def test_a_single_position(device: torch.device) -> None:
    positions = draw(1, device)
    assert torch.equal(resize_positions(positions, (1, 1)), positions)
    assert_close(resize_positions(positions, (2, 3)), interpolated(positions, (2, 3)), rtol=0, atol=1e-6)


def test_neither_autocast_nor_inference_mode_shows(device: torch.device) -> None:
    positions, grid = draw(6, device).requires_grad_(), (11, 13)
    with torch.inference_mode():
        expected = resize_positions(positions, grid).clone()
    with torch.autocast(device.type, torch.bfloat16):
        found = resize_positions(positions, grid)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    weights = torch.randn_like(found)
    (gradient,) = torch.autograd.grad(found, positions, weights)
    (theirs,) = torch.autograd.grad(interpolated(positions, grid), positions, weights)
    assert_close(gradient, theirs, rtol=0, atol=1e-5)


def test_half_precision(device: torch.device) -> None:
    positions = draw(6, device).bfloat16()
    resized = resize_positions(positions, (9, 8))
    assert resized.dtype == torch.bfloat16
    assert_close(resized.float(), interpolated(positions.float(), (9, 8)), rtol=0, atol=0.02)
