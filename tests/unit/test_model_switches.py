"""What ablations change in the model: the grounder's attention, and the masks that the two contrastive losses see."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tcl.inference.load import load
from tcl.inference.settings import InferenceSettings
from tcl.model.build import build_tcl
from tcl.model.checkpoint import save_tcl
from tcl.model.clip import ClipSizes, build_clip, patch_grid, run_blocks
from tcl.model.tcl import TCL, TERMS, Objective

SIZES = ClipSizes(
    embed_dim=16,
    image_size=32,
    patch_size=8,
    vision_width=32,
    vision_layers=3,
    vision_heads=2,
    context_length=8,
    vocab_size=100,
    text_width=16,
    text_layers=1,
    text_heads=1,
)
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(1, 90, (4, 8), generator=torch.Generator().manual_seed(2))


def model(objective: Objective | None = None, *, levels: int = 1, ordinary_attention: bool = False) -> TCL:
    torch.manual_seed(0)
    return build_tcl(
        build_clip(SIZES),
        frozen_blocks=2,
        decoder_levels=levels,
        ordinary_attention=ordinary_attention,
        objective=objective,
    ).eval()


def losses(tcl: TCL) -> dict[str, Tensor]:
    draws = torch.rand(4, *tcl.mask_grid(IMAGES), generator=torch.Generator().manual_seed(3))
    return tcl.losses(IMAGES, TOKENS, draws)


def test_ordinary_attention_runs_the_copied_block_as_clip_does(tmp_path: Path) -> None:
    tcl = model(levels=0, ordinary_attention=True)
    tokens = run_blocks(tcl.clip.visual.transformer.resblocks, tcl.clip.visual._embeds(IMAGES))
    expected = (tcl.clip.visual.ln_post(tokens[:, 1:]) @ tcl.clip.visual.proj).mT.unflatten(2, (4, 4))
    features = tcl.features(IMAGES)
    torch.testing.assert_close(features, expected)
    assert not torch.allclose(features, model(levels=0).features(IMAGES))
    save_tcl(tmp_path / "tcl.safetensors", tcl, inference=InferenceSettings().to_dict())
    torch.testing.assert_close(load(tmp_path / "tcl.safetensors").features(IMAGES), features)


@pytest.mark.parametrize(("switch", "changed"), [("soft_image_masks", {"tcli"}), ("hard_pooling", {"tclf"})])
def test_a_switch_changes_its_own_loss_alone(switch: str, changed: set[str]) -> None:
    plain, switched = losses(model()), losses(model(Objective(**{switch: True})))
    assert {name for name in TERMS if not torch.equal(plain[name], switched[name])} == changed


def test_soft_image_masks_are_the_soft_masks() -> None:
    tcl = model(Objective(soft_image_masks=True))
    texts = torch.nn.functional.normalize(tcl.text_features(TOKENS), dim=1)
    soft = tcl.mask_logits(tcl.features(IMAGES), texts).sigmoid()[range(4), range(4), None]
    shown = IMAGES * torch.nn.functional.interpolate(soft, size=(32, 32), mode="nearest")
    embeddings = torch.nn.functional.normalize(tcl.clip.encode_image(shown), dim=1)
    logits = embeddings @ texts.T * tcl.tcli_log_scale.exp()
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, torch.arange(4)) + entropy(logits.T, torch.arange(4))) / 2
    torch.testing.assert_close(losses(tcl)["tcli"], 0.1 * expected)


@pytest.mark.parametrize("name", ["tcli", "tclf"])
def test_each_contrastive_loss_has_a_weight_of_its_own(name: str) -> None:
    plain, without = losses(model()), losses(model(Objective(tcli=0.0) if name == "tcli" else Objective(tclf=0.0)))
    assert without[name] == 0
    torch.testing.assert_close(without["total"], plain["total"] - plain[name])


def test_without_a_decoder_masks_have_clips_grid() -> None:
    tcl = model(levels=0)
    assert tcl.mask_grid(IMAGES) == patch_grid(tcl.clip.visual, IMAGES) == (4, 4)
    losses(tcl)["total"].backward()
    assert tcl.grounder.projection.grad is not None
