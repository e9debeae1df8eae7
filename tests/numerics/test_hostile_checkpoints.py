"""Files that are damaged, foreign or made to harm end in one clear error."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tcl
from tcl import TCLError
from tcl.inference.settings import InferenceSettings
from tcl.model.build import blank
from tcl.model.checkpoint import save_tcl
from tcl.model.official import IMAGE, TEXT
from tcl.model.tcl import TCL

from .conftest import SMALL, SMALL_TCL, random_weights, save_weights


@pytest.mark.parametrize("place", ["config", "model", "key", "storage"])
def test_nothing_in_a_file_is_executed(place: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
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
def test_a_truncated_file(suffix: str, share: float, weights: dict[str, Tensor], tmp_path: Path) -> None:
    whole = save_weights(tmp_path / "whole.pth", weights)
    if suffix == ".safetensors":
        save_tcl(tmp_path / "whole.safetensors", tcl.load(whole), inference=InferenceSettings().to_dict())
        whole = tmp_path / "whole.safetensors"
    content = whole.read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(TCLError, match=r"cut\.\w+: .*truncated"):
        tcl.load(tmp_path / f"cut{suffix}")


def test_a_flipped_bit(weights: dict[str, Tensor], tmp_path: Path) -> None:
    content = bytearray(save_weights(tmp_path / "a.pth", weights).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(TCLError, match="CRC"):
        tcl.load(tmp_path / "a.pth")


def test_a_tensor_larger_than_its_file(weights: dict[str, Tensor], tmp_path: Path) -> None:
    weights["masker.sim2mask.w"] = torch.ones(1).expand(1 << 40)
    with pytest.raises(TCLError, match="claims more than its storage holds"):
        tcl.load(save_weights(tmp_path / "bomb.pth", weights))


def test_many_tensors_on_one_storage(weights: dict[str, Tensor], tmp_path: Path) -> None:
    shared = torch.zeros(1 << 20)
    many = {f"masker.{i}": shared.view(1024, 1024).t() for i in range(2_000)}  # 8 GB if each were read
    with pytest.raises(TCLError, match=r"foreign: masker\.0"):
        tcl.load(save_weights(tmp_path / "many.pth", {**weights, **many}))


def test_compressed_storages(weights: dict[str, Tensor], tmp_path: Path) -> None:
    plain = save_weights(tmp_path / "plain.pth", weights)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as target:
        for item in source.infolist():
            if item.filename.endswith("/data/3"):
                target.writestr(item.filename, bytes(1 << 24), zipfile.ZIP_DEFLATED)
            else:
                target.writestr(item.filename, source.read(item))
    with pytest.raises(TCLError, match="claims to hold more bytes than it has"):
        tcl.load(tmp_path / "bomb.pth")


def test_a_pickle_that_asks_for_a_huge_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}r\xff\xff\xff\x7f.")
    with pytest.raises(TCLError, match=r"no TCL checkpoint"):
        tcl.load(tmp_path / "bomb.pth")


def test_all_that_is_wrong_is_listed_at_once(weights: dict[str, Tensor], tmp_path: Path) -> None:
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


@pytest.mark.parametrize("key", random_weights(SMALL_TCL))
def test_any_missing_or_misshapen_weight_is_named(key: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
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
def test_what_is_no_checkpoint(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(TCLError, match=message):
        tcl.load(tmp_path / "a.pth")


@pytest.mark.parametrize("saved", [{}, {"model": {}}, {"a": torch.ones(1)}, torch.ones(2), [1], {"model": 3}])
def test_what_is_no_tcl(saved: Any, tmp_path: Path) -> None:
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
def test_headers_of_ours(header: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = blank(SMALL_TCL, TCL)
    stated: dict[str, Any] = {
        "format": "tcl-1",
        "sizes": {"clip": SMALL.to_dict(), "frozen_blocks": 2, "decoder_levels": 1},
        "inference": InferenceSettings().to_dict(),
    }
    for key, value in header.items():
        (stated if key in stated else stated["sizes"]["clip"])[key] = value
    metadata = {"tcl": json.dumps(stated)}
    save_file(model.state_dict(), tmp_path / "a.safetensors", metadata=metadata)
    with pytest.raises(TCLError, match=message):
        tcl.load(tmp_path / "a.safetensors")


def test_not_finite_in_a_file_of_ours(tmp_path: Path) -> None:
    model = blank(SMALL_TCL, TCL)
    with torch.no_grad():
        model.mask_bias.fill_(torch.inf)
    save_tcl(tmp_path / "a.safetensors", model, inference=InferenceSettings().to_dict())
    with pytest.raises(TCLError, match="mask_bias holds values that are not finite"):
        tcl.load(tmp_path / "a.safetensors")
