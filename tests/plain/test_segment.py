"""Segmentation and class embeddings as `tcl` computes them equal the plain ones, in float32."""

import cv2
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tcl.inference.baselines import METHODS, TrainingFree
from tcl.inference.evaluate import segment
from tcl.inference.masks import InBfloat16, TCLSegmenter, soft_masks
from tcl.inference.prompts import class_embeddings, prompt_templates
from tcl.inference.settings import IMAGENET_MEAN, IMAGENET_STD, InferenceSettings
from tcl.inference.slide import model_input
from tcl.model.build import build_grounder
from tcl.model.clip import ClipSizes, build_clip, encode_text
from tcl.model.grounder import DecoderLevel
from tcl.model.tokenizer import tokenize

from . import segment as plain
from .texts import class_embeddings as plain_embeddings

SIZES = ClipSizes(32, 32, 8, 64, 3, 1, context_length=24, text_width=64, text_layers=2, text_heads=1)
NAMES = ["cat", "dog", "grass", "a rusted van", "sky"]
SETTINGS = InferenceSettings(short_side=64, window=64, stride=32, pamr_dilations=(1, 2, 4))


@pytest.fixture(scope="module")
def model() -> TCLSegmenter:
    torch.manual_seed(0)
    clip = build_clip(SIZES)
    found = TCLSegmenter(clip, build_grounder(clip, frozen_blocks=2, decoder_levels=2)).eval().requires_grad_(False)
    for level in found.grounder.levels:
        assert isinstance(level, DecoderLevel)
        level.first.gate.fill_(0.5)
        level.second.gate.fill_(-0.7)
    return found


def test_class_embeddings(model: TCLSegmenter) -> None:
    expected = plain_embeddings(model.clip, NAMES, prompt_templates("custom"), batch=20)
    assert_close(class_embeddings(model.clip, NAMES, "custom"), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_text_features_under_autocast(model: TCLSegmenter) -> None:
    tokens = tokenize(NAMES, SIZES.context_length)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = encode_text(model.clip, tokens), model.clip.encode_text(tokens)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert float((found - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.but(pamr=False), SETTINGS.but(kp_w=0.0)])
def test_soft_masks(model: TCLSegmenter, settings: InferenceSettings) -> None:
    embeddings = model.class_embeddings(NAMES)
    window = torch.randn(1, 3, 61, 70, generator=torch.Generator().manual_seed(1))
    expected = plain.soft_masks(model, window, embeddings, settings)
    assert_close(soft_masks(model, window, embeddings, settings), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("background", [False, True])
def test_label_maps(model: TCLSegmenter, background: bool) -> None:
    embeddings = model.class_embeddings(NAMES)
    blocks = np.random.default_rng(2).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = blocks.repeat(16, axis=0).repeat(15, axis=1)
    inputs = model_input(image, SETTINGS)
    expected = plain.segment(model, inputs, embeddings, SETTINGS, background=background, size=image.shape[:2])
    found = segment(model, image, embeddings, settings=SETTINGS, background=background)
    assert (found == expected.numpy()).mean() > 0.999


@pytest.mark.parametrize("size", [(375, 500), (1, 9), (40, 64), (64, 64)])
def test_pixels_are_normalised_to_the_bit(size: tuple[int, int], device: torch.device) -> None:
    image = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    for given in (image, image[:, ::-1, ::-1]):
        found = model_input(given, SETTINGS, device)
        resized = cv2.resize(given, (found.shape[3], found.shape[2]), interpolation=cv2.INTER_LINEAR)
        rgb = torch.from_numpy(resized[:, :, ::-1].astype(np.float32))
        expected = (rgb - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        assert found.device.type == device.type
        assert found.is_contiguous()
        assert torch.equal(found[0].cpu(), expected.permute(2, 0, 1))


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize("channels", [32, 272])
def test_decoder_level(channels: int, learning: bool) -> None:
    """The larger one's convolutions take fewer multiplications."""
    torch.manual_seed(4)
    level = DecoderLevel(channels)
    level.first.gate.data.fill_(0.5)
    level.second.gate.data.fill_(-0.7)
    x = torch.randn(2, channels, 5, 7)
    with torch.set_grad_enabled(learning):
        assert_close(level(x), plain.decoder_level(level, x), rtol=0, atol=1e-5)


def test_bfloat16_is_near(model: TCLSegmenter) -> None:
    windows = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    exact = model.window_features(windows, maskclip=True)
    rough = InBfloat16(model).window_features(windows, maskclip=True)
    assert exact.maskclip is not None
    assert rough.maskclip is not None
    for ours, theirs in ((rough.dense, exact.dense), (rough.maskclip, exact.maskclip)):
        assert ours.dtype == torch.float32
        assert 0 < float((ours - theirs).norm() / theirs.norm()) < 0.02


@pytest.mark.parametrize("method", ["tcl", "baselines"])
def test_bfloat16_weights_are_those_that_autocast_makes(model: TCLSegmenter, method: str) -> None:
    chosen = model if method == "tcl" else TrainingFree(model.clip, list(METHODS), SETTINGS, levels=2).eval()
    before = {name: weight.clone() for name, weight in chosen.state_dict().items()}
    windows = torch.randn(2, 3, 61, 70, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", torch.bfloat16):
        expected = chosen.window_features(windows, maskclip=True)
    wrapped = InBfloat16(chosen)
    found = wrapped.window_features(windows, maskclip=True)
    for ours, theirs in ((found.dense, expected.dense), (found.maskclip, expected.maskclip)):
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or torch.equal(ours, theirs.float())
    assert all(torch.equal(weight, before[name]) for name, weight in chosen.state_dict().items())
    shared = {weight.data_ptr() for weight in chosen.state_dict().values()}
    own = {name: each for name, each in wrapped._half.state_dict().items() if each.data_ptr() not in shared}
    assert {each.dtype for each in own.values()} == {torch.bfloat16}
    assert not any("ln_" in name or "embedding" in name or "levels" in name for name in own)
    assert {"clip.visual.conv1.weight", "clip.visual.proj"} <= own.keys()
