"""How a training's steps are laid out on a machine: speed and memory, not what is learnt."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tcl.model.all_pairs import EAGER, Kernels
from tcl.model.clip import attention_block
from tcl.model.tcl import TCL


@dataclass(frozen=True)
class Machine:
    """Choices that change results by rounding alone.

    micro_batch: images that go through the model at a time on each rank; None: the rank's whole share of the batch.
    compiled: run blocks, decoder and losses through torch.compile. recompute: make activations again in the backward
    pass instead of keeping them. channels_last: the convolutions' memory format. workers: data loading processes beside
    each rank. timeout: seconds to wait for another rank or for data.
    """

    micro_batch: int | None = None
    compiled: bool = False
    recompute: bool = False
    channels_last: bool = False
    workers: int = 0
    timeout: float = 600


def prepare(model: TCL, machine: Machine) -> TCL:
    """Lay a model out for training on this machine; its weights and their names stay what they are."""
    visual = model.clip.visual
    if machine.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if machine.recompute:
        model.grounder.recompute = True
        visual.set_grad_checkpointing(True)
    if machine.compiled:
        for module in (*visual.transformer.resblocks, *model.clip.transformer.resblocks, *model.grounder.levels):
            module.compile()
        model.block = torch.compile(attention_block)
        model.kernels = Kernels(torch.compile(EAGER.summaries), torch.compile(EAGER.add_gradients))
    return model
