"""A training step's losses and gradients equal those of the official order of operations."""

import pytest
import torch
from torch.testing import assert_close

from tcl.model.build import build_tcl
from tcl.model.clip import ClipSizes, build_clip
from tcl.model.grounder import GatedResidual
from tcl.model.ranks import Ranks
from tcl.training.precision import Precision
from tcl.training.tasks import TCLTask

from .training_step import losses as plain_losses

SIZES = ClipSizes(
    embed_dim=16,
    image_size=32,
    patch_size=8,
    vision_width=32,
    vision_layers=3,
    vision_heads=2,
    context_length=12,
    vocab_size=100,
    text_width=16,
    text_layers=2,
    text_heads=2,
)


@pytest.mark.parametrize("micro_batch", [None, 2])
@pytest.mark.parametrize("decoder_only", [True, False])
def test_training_step(micro_batch: int | None, decoder_only: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    model = build_tcl(build_clip(SIZES).eval(), frozen_blocks=2, decoder_levels=2)
    for block in model.modules():
        if isinstance(block, GatedResidual):
            torch.nn.init.constant_(block.gate, 0.3)  # at its start of 0 the decoder would be the identity
    model.to(device)
    images, tokens = torch.randn(4, 3, 32, 32).to(device), torch.randint(1, 90, (4, 12))
    tokens[torch.arange(4), torch.tensor([3, 7, 5, 4])] = 99
    tokens, noise = tokens.to(device), torch.rand(4, 4, 16, 16).to(device)
    task = TCLTask(
        model,
        decoder_only_steps=int(decoder_only),
        global_batch=4,
        ranks=Ranks(device=device),
        micro_batch=micro_batch,
    )
    task.begin(0)
    expected = plain_losses(model, images, tokens, noise)
    expected["total"].backward()
    gradients = {name: p.grad.clone() for name, p in task.parameters.items() if p.grad is not None}
    model.zero_grad()
    batch = {"images": images, "tokens": tokens, "noise": noise.diagonal().permute(2, 0, 1)}
    found = task.backward(batch, 0, Precision("float32", device))
    assert_close({name: found[name] for name in expected}, expected, rtol=1e-5, atol=1e-6)
    assert {name for name, p in task.parameters.items() if p.grad is not None and p.grad.any()} <= set(gradients)
    for name, gradient in gradients.items():
        own = task.parameters[name].grad
        assert_close(torch.zeros_like(gradient) if own is None else own, gradient, rtol=1e-3, atol=1e-6, msg=name)
