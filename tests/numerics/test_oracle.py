"""Our model against TCL written down naively, on sizes that no reference file has."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from tcl.inference.pamr import pamr
from tcl.model import losses as L
from tcl.model.build import TCLSizes
from tcl.model.clip import ClipSizes, embed_patches, identity_attention_block
from tcl.model.ranks import Ranks

from . import oracle
from .conftest import SMALL, SMALL_TCL, model_of, random_weights

SHAPES = {
    "one copied block, one level": SMALL_TCL,
    "two copied blocks, no decoder": TCLSizes(SMALL, frozen_blocks=1, decoder_levels=0),
    "no copied block, two levels": TCLSizes(SMALL, frozen_blocks=3, decoder_levels=2),
    "patch 7, three levels, two heads": TCLSizes(
        ClipSizes(**{**SMALL.to_dict(), "patch_size": 7, "image_size": 21, "vision_width": 128, "vision_heads": 2}),
        frozen_blocks=2,
        decoder_levels=3,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_masks_of_any_architecture(shape: str) -> None:
    sizes = SHAPES[shape]
    weights = random_weights(sizes)
    model = model_of(weights).double()
    assert (len(model.trunk), len(model.grounder.levels)) == (sizes.frozen_blocks, sizes.decoder_levels)
    tokens = [[50, 3, 9, 59, 0, 0, 0, 0, 0, 0, 0, 0], [50, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 59]]
    texts = torch.stack([oracle.unit(oracle.text_embedding(weights, text), 0) for text in tokens])
    assert_close(oracle.unit(model.text_features(torch.tensor(tokens)), 1), texts, rtol=0, atol=1e-12)
    patch = sizes.clip.patch_size
    for height, width in ((sizes.clip.image_size, sizes.clip.image_size), (2 * patch, 8 * patch), (patch, 3 * patch)):
        image = torch.randn(3, height, width, dtype=torch.float64)
        expected = oracle.masks_of_window(weights, image, texts, kp_w=0.4)
        assert_close(model.soft_masks(image[None], texts, False, 0.4)[0], expected, rtol=0, atol=1e-12)


def test_identity_attention_is_attention_to_oneself_alone(weights: dict[str, Tensor]) -> None:
    visual = model_of(weights).double().clip.visual
    tokens = embed_patches(visual, torch.randn(2, 3, 16, 24, dtype=torch.float64))
    name, myself = "clip_image_encoder.clip_visual.transformer.resblocks.2", torch.eye(7, dtype=torch.bool)
    expected = torch.stack([oracle.block(each, weights, name, seen=myself) for each in tokens])
    assert_close(identity_attention_block(visual.transformer.resblocks[2], tokens), expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.lists(st.sampled_from((1, 2, 4, 8)), min_size=1, max_size=3, unique=True),
    st.integers(1, 4),
    st.integers(0, 99),
)
def test_pamr(device: torch.device, size: tuple[int, int], dilations: list[int], iterations: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    images[1, :, : size[0] // 2] = 0.25  # a flat part
    masks = torch.rand(2, 2, *size, generator=generator, dtype=torch.float64)
    expected = torch.stack(
        [
            oracle.pamr(image, mask, iterations=iterations, dilations=tuple(dilations))
            for image, mask in zip(images, masks, strict=True)
        ]
    )
    refined = pamr(images.to(device), masks.to(device), iterations=iterations, dilations=tuple(dilations))
    assert_close(refined.cpu(), expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(st.integers(1, 6), st.floats(-1, 6), st.integers(0, 99))
def test_info_nce_over_images_and_texts(batch: int, log_scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, texts = torch.randn(2, batch, 5, generator=generator, dtype=torch.float64)
    cosines = oracle.unit(images, 1) @ oracle.unit(texts, 1).T
    found = L.info_nce(
        cosines, slice(0, batch), log_scale=torch.tensor(log_scale, dtype=torch.float64), gather=Ranks().gather
    )
    assert float(found) == pytest.approx(oracle.info_nce(cosines.tolist(), log_scale), rel=1e-12, abs=1e-12)


def test_loss_terms_of_a_batch(weights: dict[str, Tensor]) -> None:
    model = model_of(weights).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 32, 32, generator=generator, dtype=torch.float64)
    tokens = [[50, 3, 9, 59, *[0] * 8], [50, 7, 59, *[0] * 9], [50, 1, 2, 3, 4, 59, *[0] * 6]]
    noise = torch.rand(3, 8, 8, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        losses = model.losses(images, torch.tensor(tokens), noise)

    texts = torch.stack([oracle.unit(oracle.text_embedding(weights, text), 0) for text in tokens])
    features = torch.stack([oracle.towers(weights, image)[0] for image in images])
    cosines = torch.einsum("bdhw,nd->bnhw", oracle.unit(features, 1), texts)
    logits = weights["masker.sim2mask.w"].double() * cosines + weights["masker.sim2mask.b"].double()
    masks = torch.sigmoid(logits)
    grounded = oracle.grounded_cosines(masks, features, texts)
    scale = float(weights["tclf_loss.logit_scale"])
    assert float(losses["tclf"]) == pytest.approx(0.1 * oracle.info_nce(grounded, scale), rel=1e-11)

    own = torch.arange(3)
    hard = (logits[own, own] + torch.log(noise / (1 - noise)) > 0).double()
    masked = images * hard.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    embedded = torch.stack([image_embedding(weights, image) for image in masked])
    table = (oracle.unit(embedded, 1) @ texts.T).tolist()
    scale = float(weights["tcli_loss.logit_scale"])
    assert float(losses["tcli"]) == pytest.approx(0.1 * oracle.info_nce(table, scale), rel=1e-11)

    areas = masks.mean(dim=(2, 3))
    others = (areas.sum() - areas.trace()) / 6
    assert float(losses["area_pos"]) == pytest.approx(0.4 * abs(float(areas.trace()) / 3 - 0.4), rel=1e-11)
    assert float(losses["area_neg"]) == pytest.approx(0.4 * float(others), rel=1e-11)
    for term, maps in (("tv_image", features), ("tv_mask", masks)):
        variation = maps.diff(dim=3).abs().mean() + maps.diff(dim=2).abs().mean()
        assert float(losses[term]) == pytest.approx(float(variation), rel=1e-11)
    assert float(losses["total"]) == pytest.approx(sum(float(losses[term]) for term in losses if term != "total"))


def image_embedding(weights: dict[str, Tensor], image: Tensor) -> Tensor:
    """CLIP's embedding [D] of an image [3, H, W]: ordinary attention, the class token."""
    x, _ = oracle.patch_tokens(weights, image)
    everyone = torch.ones(len(x), len(x), dtype=torch.bool)
    for i in range(3):
        x = oracle.block(x, weights, f"{oracle.IMAGE}transformer.resblocks.{i}", seen=everyone)
    return oracle.project(x[0], weights, "clip_image_encoder.clip_proj")


def test_one_pair_has_finite_losses_and_gradients(weights: dict[str, Tensor]) -> None:
    model = model_of(weights).double().train_decoder_only(False)
    losses = model.losses(
        torch.randn(1, 3, 32, 32).double(), torch.tensor([[50, 3, 59, *[0] * 9]]), torch.rand(1, 8, 8)
    )
    losses["total"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert float(losses["area_neg"].detach()) == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
