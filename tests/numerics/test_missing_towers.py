"""An official file without its frozen towers takes them from a CLIP that is given or found."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import tcl
from tcl import TCLError
from tcl.files import sha256
from tcl.mends import import_open_clip
from tcl.model.checkpoint import save_clip
from tcl.model.clip import ClipSizes, build_clip
from tcl.model.official import IMAGE, TEXT

from .conftest import SMALL, save_weights


def without(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if not key.startswith(prefix)}


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("home", "here", "data"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TCL_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def clip_file(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    """The CLIP of the official weights, as one of ours."""
    save_clip(tmp_path / "clip.safetensors", tcl.load(save_weights(tmp_path / "whole.pth", weights)).clip)
    return tmp_path / "clip.safetensors"


@pytest.mark.parametrize("tower", [TEXT, IMAGE, "clip_"])
def test_from_a_clip_that_is_given(tower: str, weights: dict[str, Tensor], clip_file: Path, tmp_path: Path) -> None:
    file = save_weights(tmp_path / "a.pth", without(weights, tower))
    expected, found = tcl.load(tmp_path / "whole.pth").state_dict(), tcl.load(file, clip=clip_file).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected if key != "clip.logit_scale")


@pytest.mark.parametrize("place", ["here/weights", "data/weights"])
def test_from_one_that_is_cached(place: str, weights: dict[str, Tensor], clip_file: Path, tmp_path: Path) -> None:
    (tmp_path / place).mkdir()
    clip_file.rename(tmp_path / place / "clip.safetensors")
    model = tcl.load(save_weights(tmp_path / "a.pth", without(weights, "clip_")))
    assert torch.equal(model.clip.visual.conv1.weight, weights[IMAGE + "clip_visual.conv1.weight"])


def test_from_openais_own_file(
    weights: dict[str, Tensor], clip_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_open_clip()
    from open_clip.pretrained import _PRETRAINED

    state = tcl.load(tmp_path / "whole.pth").clip.state_dict()
    (tmp_path / "data" / "checkpoints").mkdir()
    file = tmp_path / "data" / "checkpoints" / "ViT-B-16.pt"
    torch.save(state, file)
    official = save_weights(tmp_path / "a.pth", without(weights, "clip_"))
    with pytest.raises(TCLError, match="nor a ViT of OpenAI's, of which the SHA-256 are published"):
        tcl.load(official)
    published = {**_PRETRAINED["ViT-B-16"]["openai"], "url": f"https://host/{sha256(file)}/ViT-B-16.pt"}
    monkeypatch.setitem(_PRETRAINED["ViT-B-16"], "openai", published)
    model = tcl.load(official)
    half = state["visual.conv1.weight"].half().float()  # open_clip keeps OpenAI's precision
    assert torch.equal(model.clip.visual.conv1.weight, half)


def test_neither_given_nor_cached(weights: dict[str, Tensor], tmp_path: Path) -> None:
    file = save_weights(tmp_path / "a.pth", without(weights, TEXT))
    message = r"a\.pth: the file comes without CLIP's text tower, and no CLIP weights .* ViT-B-16\.pt"
    with pytest.raises(TCLError, match=message):
        tcl.load(file)
    with pytest.raises(TCLError, match=r"nowhere\.safetensors: there is no such CLIP file"):
        tcl.load(file, clip="nowhere.safetensors")


def test_a_clip_of_other_sizes(weights: dict[str, Tensor], tmp_path: Path) -> None:
    other = ClipSizes(**{**SMALL.to_dict(), "embed_dim": 16})
    save_clip(tmp_path / "clip.safetensors", build_clip(other))
    file = save_weights(tmp_path / "a.pth", without(weights, TEXT))
    with pytest.raises(TCLError, match=r"text_projection has shape \(128, 16\), must have \(128, 24\)"):
        tcl.load(file, clip=tmp_path / "clip.safetensors")
