"""Checkpoint files: what is read off them, and their conversion."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tcl
from tcl import TCLError
from tcl.commands.main import main, parser
from tcl.inference.settings import InferenceSettings
from tcl.model.build import TCLSizes, blank
from tcl.model.checkpoint import save_tcl, tcl_sizes
from tcl.model.clip import ClipSizes, build_clip
from tcl.model.official import save_official
from tcl.model.shapes import clip_shapes, tcl_shapes
from tcl.model.tcl import TCL

from .conftest import SMALL, random_weights, save_weights

PATCH_14 = ClipSizes(**{**SMALL.to_dict(), "patch_size": 14, "image_size": 70, "vision_width": 192, "vision_heads": 3})
ARCHITECTURES = [
    TCLSizes(SMALL, frozen_blocks=2, decoder_levels=1),
    TCLSizes(SMALL, frozen_blocks=1, decoder_levels=0),
    TCLSizes(SMALL, frozen_blocks=3, decoder_levels=3),
    TCLSizes(PATCH_14, frozen_blocks=2, decoder_levels=2),
]


def convert(checkpoint: Path, out: Path) -> Path:
    arguments = parser().parse_args(["convert", "--checkpoint", str(checkpoint), "--out", str(out)])
    arguments.run(arguments)
    return out


@pytest.mark.parametrize("sizes", ARCHITECTURES)
def test_the_architecture_is_read_off_the_weights(sizes: TCLSizes, tmp_path: Path) -> None:
    model = tcl.load(save_weights(tmp_path / "tcl.pth", random_weights(sizes)))
    assert tcl_sizes(model) == sizes
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.settings == InferenceSettings()


@pytest.mark.parametrize("sizes", ARCHITECTURES)
def test_shapes_are_those_of_a_built_model(sizes: TCLSizes) -> None:
    assert tcl_shapes(sizes) == {key: tuple(value.shape) for key, value in blank(sizes, TCL).state_dict().items()}
    assert clip_shapes(sizes.clip) == {key: tuple(v.shape) for key, v in build_clip(sizes.clip).state_dict().items()}


@pytest.mark.parametrize("sizes", ARCHITECTURES)
def test_conversion_there_and_back_loses_nothing(sizes: TCLSizes, tmp_path: Path) -> None:
    weights = random_weights(sizes)
    ours = convert(save_weights(tmp_path / "official.pth", weights), tmp_path / "ours.safetensors")
    back = convert(ours, tmp_path / "back.pth")
    saved = torch.load(back, weights_only=True)["model"]
    assert set(saved) == set(weights)
    assert all(torch.equal(saved[key], weights[key]) for key in weights)
    assert not (tmp_path / "back.pth").stat().st_mode & 0o111


def test_our_file_carries_sizes_heads_and_settings(tmp_path: Path) -> None:
    sizes = TCLSizes(ClipSizes(**{**SMALL.to_dict(), "vision_heads": 4}), frozen_blocks=1, decoder_levels=1)
    model = blank(sizes, TCL)
    settings = InferenceSettings(short_side=64, window=64, stride=16, pamr=False, pamr_dilations=(1, 3), kp_w=0.0)
    save_tcl(tmp_path / "a.safetensors", model, inference=settings.to_dict())
    loaded = tcl.load(tmp_path / "a.safetensors")
    assert tcl_sizes(loaded) == sizes
    assert loaded.settings == settings
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    with pytest.raises(TCLError, match="one attention head every 64 channels; this CLIP has 4 for 64"):
        convert(tmp_path / "a.safetensors", tmp_path / "a.pth")


def test_the_official_layout_holds_identity_attention_only(tmp_path: Path) -> None:
    model = blank(TCLSizes(SMALL, frozen_blocks=1, decoder_levels=1, ordinary_attention=True), TCL)
    with pytest.raises(TCLError, match="identity attention"):
        save_official(tmp_path / "tcl.pth", model, source="here")
    assert not list(tmp_path.iterdir())


def test_the_content_says_what_a_file_is_and_not_its_name(weights: dict[str, Tensor], tmp_path: Path) -> None:
    official = save_weights(tmp_path / "official.safetensors", weights)
    ours = convert(official, tmp_path / "x.safetensors").rename(tmp_path / "ours.pth")
    first, second = tcl.load(official).state_dict(), tcl.load(str(ours)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_variants_of_the_official_layout(weights: dict[str, Tensor], tmp_path: Path) -> None:
    expected = tcl.load(save_weights(tmp_path / "plain.pth", weights)).state_dict()
    torch.save(weights, tmp_path / "bare.pth")
    with_pamr = {**weights, "pamr.aff_x.kernel": torch.ones(8, 1, 3, 3), "pamr.aff_std.kernel": torch.ones(9, 1, 3, 3)}
    shared = torch.cat([value.flatten() for value in weights.values()])
    parts = shared.split([value.numel() for value in weights.values()])
    views = {key: part.view(value.shape) for (key, value), part in zip(weights.items(), parts, strict=True)}
    parameters = {key: torch.nn.Parameter(value) for key, value in weights.items()}
    for variant in (tmp_path / "bare.pth", with_pamr, views, parameters):
        file = variant if isinstance(variant, Path) else save_weights(tmp_path / "variant.pth", variant)
        found = tcl.load(file).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_half_precision_and_missing_temperatures(weights: dict[str, Tensor], tmp_path: Path) -> None:
    half = {key: value.half() for key, value in weights.items() if "logit_scale" not in key}
    model = tcl.load(save_weights(tmp_path / "half.pth", half))
    assert model.mask_scale.dtype == torch.float32
    assert torch.equal(
        model.grounder.projection, weights["masker.image_encoder.decoder.image_proj.proj"].half().float()
    )
    assert float(model.tcli_log_scale.detach()) == pytest.approx(2.6593, abs=1e-4)


def test_convert_says_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["tcl", "convert", "--checkpoint", "x.pth", "--out", str(tmp_path / "y.safetensors")]
    )
    with pytest.raises(SystemExit, match=r"tcl convert: x\.pth: there is no such checkpoint file"):
        main()
    assert not list(tmp_path.iterdir())


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    model = blank(ARCHITECTURES[0], TCL)
    for name in ("a", "b"):
        save_tcl(tmp_path / name, model, inference=InferenceSettings().to_dict())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
