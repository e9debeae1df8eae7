"""Forward and backward of a training step on ViT-B/16 at 224 pixels, in the second phase, where more is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor, nn

from benchmarks.measure import DEVICE, PRECISIONS, Case, suffix
from tcl.model.build import TCLSizes, build_tcl
from tcl.model.clip import ClipSizes, build_clip
from tcl.model.flops import tcl_step
from tcl.model.grounder import GatedResidual
from tcl.model.ranks import Ranks
from tcl.model.tcl import TCL
from tcl.training.precision import Precision
from tcl.training.tasks import TCLTask
from tests.plain.training_step import losses as plain_losses

SIZES = TCLSizes(ClipSizes())
BATCHES = {"cpu": (2, 4, 8, 16), "cuda": (16, 32, 64, 128)}
GATE = 0.1
"""Of the decoder's residual blocks; at its start of 0 they would have nothing to do."""


def cases(full: bool) -> Iterator[Case]:
    """Batches compared, and others to see the time grow."""
    torch.manual_seed(0)
    model = build_tcl(build_clip(SIZES.clip).eval(), frozen_blocks=SIZES.frozen_blocks, decoder_levels=2)
    for block in model.modules():
        if isinstance(block, GatedResidual):
            nn.init.constant_(block.gate, GATE)
    model.to(DEVICE)
    batches = BATCHES[DEVICE.type] if full else BATCHES[DEVICE.type][:3]
    for dtype, batch in product(PRECISIONS, batches):
        yield case(model, batch, dtype, compared=batch >= batches[2])


def case(model: TCL, batch: int, dtype: torch.dtype, *, compared: bool) -> Case:
    """Random images, and captions of 10 to 25 tokens."""
    side, context = SIZES.clip.image_size, SIZES.clip.context_length
    images = torch.randn(batch, 3, side, side, device=DEVICE)
    tokens = torch.randint(1, 40000, (batch, context), device=DEVICE)
    for row, length in zip(tokens, torch.randint(10, 26, (batch,)), strict=True):
        row[length - 1 :] = 0
        row[length - 1] = SIZES.clip.vocab_size - 1
    noise = torch.rand(batch, batch, *model.mask_grid(images), device=DEVICE)
    pairs = {"images": images, "tokens": tokens, "noise": noise.diagonal().permute(2, 0, 1).contiguous()}
    task = TCLTask(model, decoder_only_steps=0, global_batch=batch, ranks=Ranks(device=DEVICE))
    precision = Precision(str(dtype).removeprefix("torch."), DEVICE)
    task.begin(0)

    def ours() -> Tensor:
        model.zero_grad(set_to_none=True)
        return task.backward(pairs, 0, precision)["total"].detach()

    def plain() -> Tensor:
        model.zero_grad(set_to_none=True)
        with precision.autocast():
            total = plain_losses(model, images, tokens, noise)["total"]
        total.backward()
        return total.detach()

    return Case(
        "training step",
        f"batch {batch}{suffix(dtype)}",
        ours,
        plain if compared else None,
        flops=batch * tcl_step(SIZES, global_batch=batch, decoder_only=False).total,
        dtype=dtype,
        line=f"training step{suffix(dtype)} by images in a batch",
        count=batch,
    )
