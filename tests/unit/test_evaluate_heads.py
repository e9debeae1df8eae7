"""Several settings in one pass score what each of them scores alone, to the last digit."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tcl.datasets.benchmark import load
from tcl.inference.baselines import TrainingFree
from tcl.inference.evaluate import Head, evaluate, evaluate_heads
from tcl.inference.load import load as load_tcl
from tcl.inference.masks import TCLSegmenter, resize
from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import PixelLogits

DATA = Path(__file__).parents[1] / "data" / "benchmarks"


@pytest.fixture(scope="module")
def model(demo_checkpoint: Path) -> TCLSegmenter:
    return load_tcl(demo_checkpoint)


def alone(model: TCLSegmenter, key: str, settings: InferenceSettings) -> object:
    return evaluate(model, load(key), DATA, settings=settings).result


@pytest.mark.parametrize("key", ["voc", "cityscapes"])
def test_settings_in_one_pass(model: TCLSegmenter, key: str) -> None:
    base = model.settings.but(pamr_dilations=(1, 2))
    several = [
        base.but(pamr_iterations=4),
        base.but(pamr=False),
        *(base.but(bg_thresh=value) for value in (0.3, 0.55)),
        *(base.but(pamr_iterations=count) for count in (1, 3)),
        *(base.but(kp_w=weight) for weight in (0.3, 1.0)),
        base.but(templates="simple", kp_w=0.3),
        base.but(pamr_dilations=(1, 3)),
        base.but(short_side=80, stride=16),
    ]
    together = evaluate_heads(model, load(key), DATA, heads=[Head(each) for each in several])
    assert [outcome.result for outcome in together] == [alone(model, key, each) for each in several]


def test_the_towers_run_once(model: TCLSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    features = model.window_features

    def counted(images: Tensor, *, maskclip: bool) -> object:
        runs.append(len(images))
        return features(images, maskclip=maskclip)

    monkeypatch.setattr(model, "window_features", counted)
    alone(model, "voc", model.settings)
    once = list(runs)
    heads = [Head(model.settings.but(bg_thresh=value / 10)) for value in range(1, 10)]
    evaluate_heads(model, load("voc"), DATA, heads=heads)
    assert runs == 2 * once


def test_parts_are_the_methods_alone(model: TCLSegmenter) -> None:
    settings = model.settings.but(pamr_iterations=2)

    def scored(*methods: str) -> list[object]:
        free = TrainingFree(model.clip, methods, settings, levels=1)
        heads = [Head(settings, part=index) for index in range(len(methods))]
        return [outcome.result for outcome in evaluate_heads(free, load("voc"), DATA, heads=heads)]

    assert scored("maskclip", "naclip") == scored("maskclip") + scored("naclip")


@pytest.mark.parametrize("spread", [1.0, 1e-6, 1e-7, 0.0])
@pytest.mark.parametrize("background", [None, 0.5])
@pytest.mark.parametrize("part", [1, 9, 23])
def test_channels_are_those_of_softmax_and_argmax(spread: float, background: float | None, part: int) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = 0.5 + spread * (torch.rand(1, 23, 40, 37, generator=generator) - 0.5)
    parts = masks.split(part, dim=1)
    logits = torch.cat([resize(each, (61, 50)) for each in parts], dim=1)
    if background is not None:
        logits = torch.cat([resize(torch.full_like(masks[:, :1], background), (61, 50)), logits], dim=1)
    expected = logits.softmax(dim=1).argmax(dim=1)[0].numpy()
    np.testing.assert_array_equal(PixelLogits(parts, (61, 50)).chosen(background), expected)
