"""Parts of the model on two windows of 448 x 448 pixels: a decoder level, CLIP's last block, all of it in bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import DEVICE, PRECISIONS, Case, suffix, within
from benchmarks.random_model import SIZES, segmenter
from tcl.inference.masks import InBfloat16, SegmentationModel
from tcl.model import flops
from tcl.model.clip import identity_attention_block
from tcl.model.grounder import DecoderLevel
from tests.plain.segment import decoder_level, identity_attention


def cases(full: bool) -> Iterator[Case]:
    """Each part without gradients."""
    model, width, batch = segmenter(), SIZES.clip.vision_width, 2
    torch.manual_seed(0)
    level = model.grounder.levels[0]
    assert isinstance(level, DecoderLevel)
    for dtype, side in product(PRECISIONS, (28, 56) if full else (28,)):
        x = torch.randn(batch, side**2, width, device=DEVICE).transpose(1, 2).unflatten(2, (side, side))
        yield Case(
            "decoder level",
            f"{batch} x {side} x {side} to {2 * side} x {2 * side}, {width} channels{suffix(dtype)}",
            within(dtype, partial(frozen, level, x)),
            within(dtype, partial(frozen, decoder_level, level, x)),
            flops=batch * 2 * (4 + 9) * width**2 * (2 * side) ** 2,
            dtype=dtype,
        )

    tokens = torch.randn(batch, 1 + 28 * 28, width, device=DEVICE)
    block = model.clip.visual.transformer.resblocks[-1]
    for dtype in PRECISIONS:
        yield Case(
            "block with identity attention",
            f"{batch} x {tokens.shape[1]} tokens{suffix(dtype)}",
            within(dtype, partial(frozen, identity_attention_block, block, tokens)),
            within(dtype, partial(frozen, identity_attention, block, tokens)),
            flops=20 * width**2 * tokens.shape[0] * tokens.shape[1],
            dtype=dtype,
        )

    if DEVICE.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return  # a processor without its instructions takes a minute
    for side in (448,) if full else (224,):
        images = torch.randn(batch, 3, side, side, device=DEVICE)
        yield Case(
            "towers and decoder in bfloat16, against float32",
            f"{batch} x {side} x {side}",
            partial(features, InBfloat16(model), images),
            partial(features, model, images),
            flops=batch * window_flops(side),
            dtype=torch.bfloat16,
        )


@torch.no_grad()
def frozen(part: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """A part's result, as inference takes it."""
    return part(*inputs)


def features(model: SegmentationModel, images: Tensor) -> Tensor:
    """V of windows."""
    return model.window_features(images, maskclip=True).dense


def window_flops(side: int) -> float:
    """Image tower, its last block once more, and the decoder, on one square window."""
    patches = (side // SIZES.clip.patch_size) ** 2
    scale = patches / (SIZES.clip.image_size // SIZES.clip.patch_size) ** 2
    width, embedding = SIZES.clip.vision_width, 2 * patches * 3 * SIZES.clip.patch_size**2 * SIZES.clip.vision_width
    trunk = flops.blocks(SIZES.frozen_blocks, width, 1 + patches)
    return embedding + trunk + 2 * 20 * width**2 * (1 + patches) + scale * flops.decoder(SIZES)
