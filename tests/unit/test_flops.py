"""The count of arithmetic on paper against torch's own count of what is executed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tcl.model import flops
from tcl.model.build import TCLSizes, build_tcl
from tcl.model.clip import ClipSizes, build_clip, embed_images
from tcl.model.tcl import TCL

SIZES = TCLSizes(
    ClipSizes(
        embed_dim=24,
        image_size=48,
        patch_size=8,
        vision_width=32,
        vision_layers=4,
        vision_heads=2,
        context_length=12,
        text_width=16,
        text_layers=2,
        text_heads=2,
    ),
    frozen_blocks=2,
    decoder_levels=2,
)
B = 6


@pytest.fixture
def model() -> TCL:
    clip = build_clip(SIZES.clip)
    return build_tcl(clip, frozen_blocks=SIZES.frozen_blocks, decoder_levels=SIZES.decoder_levels)


def executed(work: Callable[[], Any]) -> float:
    """FLOPs for each of B images, as torch counts them; attention is made of matrix products, which it can count."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / B


def test_parts(model: TCL) -> None:
    images, clip = torch.randn(B, 3, 48, 48), SIZES.clip
    tokens = torch.randint(1, 49000, (B, 12)).index_fill(1, torch.tensor([11]), 49407)
    with torch.no_grad():
        frozen = model.frozen_tokens(images)
        assert executed(lambda: model.clip.encode_image(images)) == flops.image_tower(clip)
        assert executed(lambda: embed_images(model.clip.visual, images)) == flops.masked_tower(clip)
        assert executed(lambda: model.text_features(tokens)) == flops.text_tower(clip)
        assert executed(lambda: model.frozen_tokens(images)) == flops.image_tower(clip, layers=2)
        grounder = executed(lambda: model.grounder(frozen, (6, 6)))
    assert grounder == pytest.approx(flops.decoder(SIZES) + flops.copied_blocks(SIZES), rel=0.02)


@pytest.mark.parametrize("decoder_only", [True, False])
def test_a_step(model: TCL, decoder_only: bool) -> None:
    images, noise = torch.randn(B, 3, 48, 48), torch.rand(B, 24, 24)
    tokens = torch.randint(1, 49000, (B, 12)).index_fill(1, torch.tensor([11]), 49407)
    model.train_decoder_only(decoder_only)
    found = executed(lambda: model.losses(images, tokens, noise)["total"].backward())
    counted = flops.tcl_step(SIZES, global_batch=B, decoder_only=decoder_only)
    done_again = counted.losses * 2 / 5  # the masks' similarity and pooling, in the backward pass
    assert found == pytest.approx(counted.total + done_again, rel=0.03)
