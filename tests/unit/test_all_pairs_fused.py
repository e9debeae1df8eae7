"""The fused masks of all pairs equal those made operation by operation: on a GPU, or in Triton's interpreter."""

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tcl.model.all_pairs import EAGER, Summaries, _Summarise
from tcl.model.losses import normalise

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="Triton is missing; it comes with torch's GPU builds, or by pip install triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Fused = Callable[..., Summaries]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Fused:
    from tcl.model import all_pairs_fused

    def summarise(*inputs: Any, chunk: int) -> Summaries:
        monkeypatch.setattr(all_pairs_fused, "CHUNK", chunk)
        return Summaries(*all_pairs_fused.FusedSummarise.apply(*inputs))

    return summarise


def inputs(images: int, texts: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """V as a grounder lays it out, texts, w and b, in float64."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, height, width, channels, generator=generator, dtype=torch.float64)
    words = normalise(torch.randn(texts, channels, generator=generator, dtype=torch.float64))
    scale, bias = (torch.tensor(value, dtype=torch.float64) for value in (10.0, -2.5))
    return features.permute(0, 3, 1, 2), words, scale, bias


def gradients(summaries: Summaries, learned: list[Tensor]) -> list[Tensor]:
    """Of a weighted sum of all, for V, w and b."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(part.shape, generator=generator, dtype=torch.float64) for part in summaries]
    pairs = zip(summaries, weights, strict=True)
    total = torch.stack([(part * weight.to(part)).sum().double() for part, weight in pairs]).sum()
    return list(torch.autograd.grad(total, learned))


@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("chunk", [1, 300, 1 << 20])
@pytest.mark.parametrize(
    ("images", "texts", "channels", "height", "width"), [(3, 5, 6, 4, 7), (1, 3, 20, 12, 13), (1, 2, 8, 1, 33)]
)
def test_fused_equals_definitions(
    images: int, texts: int, channels: int, height: int, width: int, chunk: int, hard: bool, fused: Fused
) -> None:
    positives = slice(1, 1 + images)
    tensors = inputs(images, texts, channels, height, width)
    features, words, scale, bias = (tensor.to(DEVICE) for tensor in tensors)
    exact = [tensor.requires_grad_() for tensor in (features, scale, bias)]
    expected = Summaries(*_Summarise.apply(features, words, scale, bias, positives, hard, EAGER))
    single = [tensor.detach().float().requires_grad_() for tensor in exact]
    found = fused(single[0], words.float(), *single[1:], positives, hard, chunk=chunk)
    if height == 1:  # the mean over no differences is not a number
        none = torch.zeros(images, device=DEVICE)
        expected = expected._replace(tv_image=none, tv_mask=none)
        found = expected._replace(logits=found.logits, areas=found.areas, cosines=found.cosines)
    for name, ours, theirs in zip(Summaries._fields, found, expected, strict=True):
        assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6, msg=name)
    for ours, theirs in zip(gradients(found, single), gradients(expected, exact), strict=True):
        assert float((ours.double() - theirs).norm()) < 1e-5 * float(theirs.norm()) + 1e-6


def test_vectors_of_no_length_change_nothing_else(fused: Fused) -> None:
    features, words, scale, bias = (tensor.float().to(DEVICE) for tensor in inputs(2, 4, 8, 5, 6))
    features[1, :, 2, 3] = 0
    learned = [tensor.requires_grad_() for tensor in (features, scale, bias)]
    expected = Summaries(*_Summarise.apply(features, words, scale, bias, slice(0, 2), False, EAGER))
    found = fused(features, words, scale, bias, slice(0, 2), False, chunk=100)
    assert_close(tuple(found), tuple(expected), rtol=1e-5, atol=1e-6)
    own, theirs = gradients(found, learned)[0], gradients(expected, learned)[0]
    assert own.isfinite().all()
    own[1, :, 2, 3] = theirs[1, :, 2, 3] = 0  # there a rounding is divided by 1e-6
    assert_close(own, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="half precision is what GPUs have")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, fused: Fused) -> None:
    features, words, scale, bias = (tensor.float().to(DEVICE) for tensor in inputs(3, 9, 64, 14, 20))
    learned = [tensor.requires_grad_() for tensor in (features, scale, bias)]
    expected = Summaries(*_Summarise.apply(features, words, scale, bias, slice(0, 3), False, EAGER))
    with torch.autocast(DEVICE.type, dtype):
        found = fused(features, words, scale, bias, slice(0, 3), False, chunk=1 << 20)
    results = zip((*found, *gradients(found, learned)), (*expected, *gradients(expected, learned)), strict=True)
    for ours, theirs in results:
        assert ours.dtype == torch.float32
        assert float(((ours - theirs).norm() / theirs.norm()).detach()) < 0.02
