"""A decoder level's convolutions in fewer multiplications against the direct ones, in float64 and in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from tcl.model import winograd
from tcl.model.grounder import DecoderLevel, upsampled_conv3x3
from tests.plain.segment import decoder_level


@pytest.fixture
def level(monkeypatch: pytest.MonkeyPatch) -> DecoderLevel:
    """A level of 24 channels in float64, which goes the way of the large ones."""
    monkeypatch.setattr(winograd, "CHANNELS", 1)
    torch.manual_seed(0)
    level = DecoderLevel(24).double()
    level.first.gate.data.fill_(0.5)
    level.second.gate.data.fill_(-0.7)
    return level


def gradients(result: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=result.dtype)
    return torch.autograd.grad(result, inputs, weights)


@pytest.mark.parametrize("tiles", [4, 70, 1000])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("frozen", ["", "x", "first.norm", "second"])
def test_level(
    level: DecoderLevel, monkeypatch: pytest.MonkeyPatch, tiles: int, channels_last: bool, frozen: str
) -> None:
    """Bands of rows of an image, several images at a time, and all at once."""
    monkeypatch.setattr(winograd, "TILES", tiles)
    x = torch.randn(3, 24, 5, 6, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    named = {"x": x, **dict(level.named_parameters())}
    learnt = [each.requires_grad_(not frozen or not name.startswith(frozen)) for name, each in named.items()]
    learnt = [each for each in learnt if each.requires_grad]
    found, expected = level(x), decoder_level(level, x)
    assert_close(found, expected)
    assert_close(gradients(found, learnt), gradients(expected, learnt))
    with torch.no_grad():
        assert_close(level(x), expected)


def test_upsampled_conv3x3() -> None:
    torch.manual_seed(2)
    x, weight, bias = torch.randn(2, 32, 5, 7), torch.randn(8, 32, 3, 3), torch.randn(8)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)
    assert_close(upsampled_conv3x3(x, weight, bias), expected, rtol=0, atol=2e-4)


def test_rounding_is_no_larger() -> None:
    """Root mean squares of the errors in float32, of result and gradients, against float64."""
    torch.manual_seed(3)
    level = DecoderLevel(256)
    level.first.gate.data.fill_(0.5)
    level.second.gate.data.fill_(0.5)
    x = torch.randn(2, 256, 8, 8)
    inputs = [x.requires_grad_(), *level.parameters()]
    assert winograd.worthwhile(x)
    found = [level(x), *gradients(level(x), inputs)]
    direct = [decoder_level(level, x), *gradients(decoder_level(level, x), inputs)]
    level.double()
    inputs = [x := x.detach().double().requires_grad_(), *level.parameters()]
    exact = [decoder_level(level, x), *gradients(decoder_level(level, x), inputs)]
    for ours, theirs, right in zip(found, direct, exact, strict=True):
        assert (ours - right).norm() <= 1.5 * (theirs - right).norm() + 1e-7 * right.norm()


def test_worthwhile() -> None:
    x = torch.zeros(1, winograd.CHANNELS, 2, 2)
    assert winograd.worthwhile(x)
    assert not winograd.worthwhile(x[:, 1:])
    assert not winograd.worthwhile(x.bfloat16())
    assert not winograd.worthwhile(x.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.worthwhile(x)
