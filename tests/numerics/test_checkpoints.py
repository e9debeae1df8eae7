"""Checkpoint files: what is read off them, converted, completed, and refused."""

import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tcl
from tcl import TCLError
from tcl.commands.main import main, parser
from tcl.files import sha256
from tcl.inference.settings import InferenceSettings
from tcl.model import pretrained
from tcl.model.build import TCLSizes, blank
from tcl.model.checkpoint import save_clip, save_tcl, tcl_sizes
from tcl.model.clip import ClipSizes, build_clip
from tcl.model.official import IMAGE, TEXT
from tcl.model.shapes import clip_shapes, tcl_shapes
from tcl.model.tcl import TCL

from .conftest import random_weights, save_weights

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
SIZES = TCLSizes(SMALL, frozen_blocks=2, decoder_levels=1)
PATCH_14 = ClipSizes(**{**SMALL.to_dict(), "patch_size": 14, "image_size": 70, "vision_width": 192, "vision_heads": 3})
ARCHITECTURES = [
    SIZES,
    TCLSizes(SMALL, frozen_blocks=1, decoder_levels=0),
    TCLSizes(SMALL, frozen_blocks=3, decoder_levels=3),
    TCLSizes(PATCH_14, frozen_blocks=2, decoder_levels=2),
]


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return random_weights(SIZES)


def convert(checkpoint: Path, out: Path) -> Path:
    arguments = parser().parse_args(["convert", "--checkpoint", str(checkpoint), "--out", str(out)])
    arguments.run(arguments)
    return out


def without(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith(prefix)}


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


class TestHostileFiles:
    """Files that are damaged, foreign or made to harm end in one clear error."""

    @pytest.mark.parametrize("place", ["config", "model", "key", "storage"])
    def test_nothing_in_a_file_is_executed(self, place: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
        marker = tmp_path / "executed"

        class Payload:
            def __reduce__(self) -> tuple[Any, ...]:
                return (os.mkdir, (str(marker),))

        saved: dict[Any, Any] = {"model": dict(weights), "step": 1}
        if place == "config":
            saved["config"] = Payload()
        elif place == "model":
            saved["model"] = Payload()
        elif place == "key":
            saved["model"]["masker.sim2mask.w"] = Payload()
        else:
            saved["optimizer"] = [Payload(), {"state": {0: Payload()}}]
        torch.save(saved, tmp_path / "evil.pth")
        if place in ("config", "storage"):
            tcl.load(tmp_path / "evil.pth")
        else:
            with pytest.raises(TCLError, match=r"evil\.pth"):
                tcl.load(tmp_path / "evil.pth")
        assert not marker.exists()

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_a_truncated_file(self, suffix: str, share: float, weights: dict[str, Tensor], tmp_path: Path) -> None:
        whole = save_weights(tmp_path / "whole.pth", weights)
        if suffix == ".safetensors":
            whole = convert(whole, tmp_path / "whole.safetensors")
        content = whole.read_bytes()
        (tmp_path / f"cut{suffix}").write_bytes(content[: int(share * len(content))])
        with pytest.raises(TCLError, match=r"cut\.\w+: .*truncated"):
            tcl.load(tmp_path / f"cut{suffix}")

    def test_a_flipped_bit(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        content = bytearray(save_weights(tmp_path / "a.pth", weights).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(TCLError, match="CRC"):
            tcl.load(tmp_path / "a.pth")

    def test_a_tensor_larger_than_its_file(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        weights["masker.sim2mask.w"] = torch.ones(1).expand(1 << 40)
        with pytest.raises(TCLError, match="claims more than its storage holds"):
            tcl.load(save_weights(tmp_path / "bomb.pth", weights))

    def test_many_tensors_on_one_storage(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        shared = torch.zeros(1 << 20)
        many = {f"masker.{i}": shared.view(1024, 1024).t() for i in range(2_000)}  # 8 GB if each were read
        with pytest.raises(TCLError, match=r"foreign: masker\.0"):
            tcl.load(save_weights(tmp_path / "many.pth", {**weights, **many}))

    def test_compressed_storages(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        plain = save_weights(tmp_path / "plain.pth", weights)
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as target:
            for item in source.infolist():
                if item.filename.endswith("/data/3"):
                    target.writestr(item.filename, bytes(1 << 24), zipfile.ZIP_DEFLATED)
                else:
                    target.writestr(item.filename, source.read(item))
        with pytest.raises(TCLError, match="claims to hold more bytes than it has"):
            tcl.load(tmp_path / "bomb.pth")

    def test_a_pickle_that_asks_for_a_huge_table(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "bomb.pth", "w") as archive:
            archive.writestr("a/data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")
        with pytest.raises(TCLError, match=r"no TCL checkpoint"):
            tcl.load(tmp_path / "bomb.pth")

    def test_all_that_is_wrong_is_listed_at_once(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        del weights["masker.sim2mask.b"]
        weights["masker.extra"] = torch.zeros(1)
        weights["masker.image_encoder.decoder.image_proj.proj"] = torch.zeros(64, 25)
        weights[TEXT + "ln_final.weight"][3] = torch.nan
        weights[IMAGE + "clip_visual.class_embedding"] = torch.zeros(64, dtype=torch.int64)
        with pytest.raises(TCLError) as caught:
            tcl.load(save_weights(tmp_path / "a.pth", weights))
        message = str(caught.value)
        for line in (
            "missing: masker.sim2mask.b",
            "foreign: masker.extra",
            "masker.image_encoder.decoder.image_proj.proj has shape (64, 25), must have (64, 24)",
            "clip_text_encoder.ln_final.weight holds values that are not finite",
            "class_embedding holds torch.int64, must hold floating-point numbers",
        ):
            assert line in message

    @pytest.mark.parametrize("key", random_weights(SIZES))
    def test_any_missing_or_misshapen_weight_is_named(
        self, key: str, weights: dict[str, Tensor], tmp_path: Path
    ) -> None:
        value = weights.pop(key)
        if "logit_scale" not in key:
            with pytest.raises(TCLError, match=f"missing: {key}"):
                tcl.load(save_weights(tmp_path / "a.pth", weights))
        weights[key] = torch.zeros(*value.shape, 2)
        with pytest.raises(TCLError, match=f"{key} has shape"):
            tcl.load(save_weights(tmp_path / "a.pth", weights))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "neither safetensors nor a torch checkpoint"),
            (b"hello, world", "neither safetensors nor a torch checkpoint"),
            (b"\x80\x04N.", "neither safetensors nor a torch checkpoint"),
            (b"\xff\xff\xff\xff\xff\xff\xff\x7f{", "not a readable safetensors file"),
            (b"\x02\0\0\0\0\0\0\0{}", "its format is 'not stated'"),
        ],
    )
    def test_what_is_no_checkpoint(self, content: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(TCLError, match=message):
            tcl.load(tmp_path / "a.pth")

    @pytest.mark.parametrize("saved", [{}, {"model": {}}, {"a": torch.ones(1)}, torch.ones(2), [1], {"model": 3}])
    def test_what_is_no_tcl(self, saved: Any, tmp_path: Path) -> None:
        torch.save(saved, tmp_path / "a.pth")
        with pytest.raises(TCLError, match=r"a\.pth: no (TCL )?checkpoint"):
            tcl.load(tmp_path / "a.pth")

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ({"sizes": None}, "does not state a model's sizes"),
            ({"sizes": {"clip": {"width": 3}}}, "does not state a model's sizes"),
            ({"vision_layers": 10**9}, "vision_layers is 1000000000, must be a whole number from 1 to 256"),
            ({"vision_width": 1 << 20}, "must have "),
            ({"context_length": 1 << 20}, "context_length is 1048576"),
            ({"vision_heads": 3}, "vision_width 64 is no multiple of vision_heads 3"),
            ({"patch_size": "8"}, "patch_size is '8'"),
            ({"inference": {"kp_w": 2}}, "kp_w: .* got 2"),
            ({"inference": []}, "valid dictionary"),
        ],
    )
    def test_headers_of_ours(self, header: dict[str, Any], message: str, tmp_path: Path) -> None:
        model = blank(SIZES, TCL)
        stated: dict[str, Any] = {
            "format": "tcl-1",
            "sizes": {"clip": SMALL.to_dict(), "frozen_blocks": 2, "decoder_levels": 1},
            "inference": InferenceSettings().to_dict(),
        }
        for key, value in header.items():
            (stated if key in stated else stated["sizes"]["clip"])[key] = value
        metadata = {key: json.dumps(value) for key, value in stated.items()}
        save_file(model.state_dict(), tmp_path / "a.safetensors", metadata=metadata)
        with pytest.raises(TCLError, match=message):
            tcl.load(tmp_path / "a.safetensors")

    def test_not_finite_in_a_file_of_ours(self, tmp_path: Path) -> None:
        model = blank(SIZES, TCL)
        with torch.no_grad():
            model.mask_bias.fill_(torch.inf)
        save_tcl(tmp_path / "a.safetensors", model, inference=InferenceSettings().to_dict())
        with pytest.raises(TCLError, match="mask_bias holds values that are not finite"):
            tcl.load(tmp_path / "a.safetensors")


class TestMissingTowers:
    """An official file without its frozen towers takes them from a CLIP that is given or found."""

    @pytest.fixture(autouse=True)
    def nothing_cached(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for folder in ("home", "here", "data"):
            (tmp_path / folder).mkdir()
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("TCL_DATA", str(tmp_path / "data"))
        monkeypatch.chdir(tmp_path / "here")

    @pytest.fixture
    def clip_file(self, weights: dict[str, Tensor], tmp_path: Path) -> Path:
        """The CLIP of the official weights, as one of ours."""
        save_clip(tmp_path / "clip.safetensors", tcl.load(save_weights(tmp_path / "whole.pth", weights)).clip)
        return tmp_path / "clip.safetensors"

    @pytest.mark.parametrize("tower", [TEXT, IMAGE, "clip_"])
    def test_from_a_clip_that_is_given(
        self, tower: str, weights: dict[str, Tensor], clip_file: Path, tmp_path: Path
    ) -> None:
        file = save_weights(tmp_path / "a.pth", without(weights, tower))
        expected, found = tcl.load(tmp_path / "whole.pth").state_dict(), tcl.load(file, clip=clip_file).state_dict()
        assert all(torch.equal(found[key], expected[key]) for key in expected if key != "clip.logit_scale")

    @pytest.mark.parametrize("place", ["here/weights", "data/weights"])
    def test_from_one_that_is_cached(
        self, place: str, weights: dict[str, Tensor], clip_file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / place).mkdir()
        clip_file.rename(tmp_path / place / "clip.safetensors")
        model = tcl.load(save_weights(tmp_path / "a.pth", without(weights, "clip_")))
        assert torch.equal(model.clip.visual.conv1.weight, weights[IMAGE + "clip_visual.conv1.weight"])

    def test_from_openais_own_file(
        self, weights: dict[str, Tensor], clip_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = tcl.load(tmp_path / "whole.pth").clip.state_dict()
        (tmp_path / "data" / "checkpoints").mkdir()
        file = tmp_path / "data" / "checkpoints" / "ViT-B-16.pt"
        torch.save(state, file)
        official = save_weights(tmp_path / "a.pth", without(weights, "clip_"))
        with pytest.raises(TCLError, match="nor OpenAI's ViT-B-16, whose SHA-256 is 5806e77cd80f8b59"):
            tcl.load(official)
        monkeypatch.setattr(pretrained, "_address", lambda tag: f"https://host/{sha256(file)}/ViT-B-16.pt")
        model = tcl.load(official)
        half = state["visual.conv1.weight"].half().float()  # open_clip keeps OpenAI's precision
        assert torch.equal(model.clip.visual.conv1.weight, half)

    def test_neither_given_nor_cached(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        file = save_weights(tmp_path / "a.pth", without(weights, TEXT))
        message = r"a\.pth: the file comes without CLIP's text tower, and no CLIP weights .* ViT-B-16\.pt"
        with pytest.raises(TCLError, match=message):
            tcl.load(file)
        with pytest.raises(TCLError, match=r"nowhere\.safetensors: there is no such CLIP file"):
            tcl.load(file, clip="nowhere.safetensors")

    def test_a_clip_of_other_sizes(self, weights: dict[str, Tensor], tmp_path: Path) -> None:
        other = ClipSizes(**{**SMALL.to_dict(), "embed_dim": 16})
        save_clip(tmp_path / "clip.safetensors", build_clip(other))
        file = save_weights(tmp_path / "a.pth", without(weights, TEXT))
        with pytest.raises(TCLError, match=r"text_projection has shape \(128, 16\), must have \(128, 24\)"):
            tcl.load(file, clip=tmp_path / "clip.safetensors")


def test_convert_says_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["tcl", "convert", "--checkpoint", "x.pth", "--out", str(tmp_path / "y.safetensors")]
    )
    with pytest.raises(SystemExit, match=r"tcl convert: x\.pth: there is no such checkpoint file"):
        main()
    assert not list(tmp_path.iterdir())
