"""The masks of all pairs in chunks: equal to the losses' definitions, in memory that does not grow with the texts."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tcl.model import all_pairs
from tcl.model import losses as L
from tcl.model.all_pairs import Summaries, summarise

B, N, D, H, W = 5, 11, 6, 4, 7
POSITIVES = slice(3, 3 + B)


def inputs(zero: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(B, D, H, W, generator=generator, dtype=torch.float64)
    if zero:
        features[1] = 0
        features[2, :, 1, 1] = 0
    texts = L.normalise(torch.randn(N, D, generator=generator, dtype=torch.float64))
    scale, bias = (torch.tensor(value, dtype=torch.float64) for value in (10.0, -2.5))
    return features.requires_grad_(), texts, scale.requires_grad_(), bias.requires_grad_()


def held_whole(features: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, *, hard: bool = False) -> Summaries:
    """The definitions, on tensors [B, N, h, w]; hard: pooling under rounded masks with the soft masks' gradient."""
    cosines = L.similarity(features, texts)
    masks = torch.sigmoid(scale * cosines + bias)
    pooling = masks + (masks.round() - masks).detach() if hard else masks
    return Summaries(
        logits=L.grounded_logits(L.grounded_embeddings(pooling, features), texts),
        areas=masks.mean(dim=(2, 3)),
        tv_mask=L.total_variation(masks).mean(dim=1),
        tv_image=L.total_variation(features).mean(dim=1),
        cosines=cosines[torch.arange(B), torch.arange(POSITIVES.start, POSITIVES.stop)],
    )


@pytest.mark.parametrize("zero", [False, True], ids=["", "with zero vectors"])
@pytest.mark.parametrize("hard", [False, True], ids=["soft", "hard"])
@pytest.mark.parametrize("chunk", [1, H * W * 3, H * W * N * 2, 1 << 20])
def test_chunks_equal_the_definitions(chunk: int, hard: bool, zero: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(all_pairs.CHUNK, "cpu", chunk)
    features, texts, scale, bias = inputs(zero)
    learned = (features, scale, bias)
    atol = 1e-9 if zero else 1e-12  # a zero vector is divided by EPS: rounding is magnified
    expected = held_whole(features, texts, scale, bias, hard=hard)
    found = summarise(features, texts, scale=scale, bias=bias, positives=POSITIVES, hard_pooling=hard)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(part.shape, generator=generator, dtype=part.dtype) for part in expected]
    for name, part, theirs, weight in zip(Summaries._fields, found, expected, weights, strict=True):
        ours = torch.autograd.grad((part * weight).sum(), learned, retain_graph=True, allow_unused=True)
        reference = torch.autograd.grad((theirs * weight).sum(), learned, retain_graph=True, allow_unused=True)
        for one, other in zip(ours, reference, strict=True):
            expected_gradient = torch.zeros_like(one) if other is None else other
            assert_close(one, expected_gradient, rtol=1e-10, atol=atol, msg=f"gradient through {name}")


def test_half_precision_stays_near_single() -> None:
    features, texts, scale, bias = (tensor.detach().float().requires_grad_() for tensor in inputs())
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found = summarise(features, texts.detach(), scale=scale, bias=bias, positives=POSITIVES)
            total = torch.stack([part.sum() for part in found]).sum()
        results.append((*found, *torch.autograd.grad(total, (features, scale, bias))))
    for single, half in zip(*results, strict=True):
        assert half.dtype == torch.float32
        assert float(((single - half).norm() / single.norm()).detach()) < 0.02


PEAK = """
import resource, sys, torch
from tcl.model.all_pairs import summarise
torch.set_num_threads(1)
dtype = getattr(torch, sys.argv[1])
images, width, side, counts = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]
features = torch.randn(images, width, side, side, dtype=dtype, requires_grad=True)
for count in map(int, counts):
    texts = torch.nn.functional.normalize(torch.randn(count, width))
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-2.5, requires_grad=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = summarise(features, texts, scale=scale, bias=bias, positives=slice(0, images))
    gradient, = torch.autograd.grad(sum(part.sum() for part in found), features)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def peak_megabytes(dtype: str, images: int, width: int, side: int, *texts: int) -> list[float]:
    """What the highest resident size grows by in forward and backward, for each number of texts in turn."""
    command = [sys.executable, "-c", PEAK, dtype, *map(str, (images, width, side, *texts))]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=1800).stdout
    return [float(line) for line in output.split()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_does_not_grow_with_the_texts(dtype: str) -> None:
    for texts in (1024, 8192):  # held whole, one tensor of masks takes 49 MB and 392 MB
        (peak,) = peak_megabytes(dtype, 4, 32, 56, texts)
        assert peak < 160


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_at_the_size_of_the_paper(dtype: str) -> None:
    (peak,) = peak_megabytes(dtype, 64, 512, 56, 1024)
    print(f"{dtype}: {peak:.0f} MB")
    assert peak < 1536
