"""The one place that knows how the parts of a TCL fit together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from torch import nn

from tcl.errors import TCLError
from tcl.model.clip import Clip, ClipSizes, build_clip
from tcl.model.grounder import DecoderLevel, Grounder
from tcl.model.tcl import TCL, Objective

Model = TypeVar("Model", bound=TCL)


@dataclass(frozen=True)
class TCLSizes:
    """Sizes of a TCL: its CLIP, how many of CLIP's image blocks stay frozen below the grounder, decoder levels.

    With all of CLIP's blocks frozen the last one has identity attention, and the grounder copies none. With
    `ordinary_attention`, an ablation, the grounder's last block attends as CLIP's does. Raises TCLError if CLIP has not
    that many blocks.
    """

    clip: ClipSizes
    frozen_blocks: int = 11
    decoder_levels: int = 2
    ordinary_attention: bool = False

    def __post_init__(self) -> None:
        for name, low, high in (
            ("frozen_blocks", 1, self.clip.vision_layers),
            ("decoder_levels", 0, 8),
        ):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise TCLError(f"sizes of a TCL: {name} is {value!r}, must be a whole number from {low} to {high}.")
        if type(self.ordinary_attention) is not bool:
            raise TCLError(f"sizes of a TCL: ordinary_attention is {self.ordinary_attention!r}, must be true or false.")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "clip": self.clip.to_dict()}


def build_grounder(
    clip: Clip, *, frozen_blocks: int, decoder_levels: int, ordinary_attention: bool = False
) -> Grounder:
    """A grounder that starts as a copy of CLIP's last blocks and projection, its decoder as the identity."""
    visual = clip.visual
    width = visual.conv1.out_channels
    return Grounder(
        nn.ModuleList(copy.deepcopy(block) for block in visual.transformer.resblocks[frozen_blocks:]),
        levels=nn.ModuleList(DecoderLevel(width) for _ in range(decoder_levels)),
        norm=copy.deepcopy(visual.ln_post),
        projection=nn.Parameter(visual.proj.detach().clone()),
        ordinary_attention=ordinary_attention,
    ).requires_grad_(True)


def build_tcl(
    clip: Clip,
    *,
    frozen_blocks: int,
    decoder_levels: int,
    ordinary_attention: bool = False,
    objective: Objective | None = None,
) -> TCL:
    """A TCL ready to train on top of a pretrained CLIP; new weights come from torch's global generator."""
    grounder = build_grounder(
        clip, frozen_blocks=frozen_blocks, decoder_levels=decoder_levels, ordinary_attention=ordinary_attention
    )
    return TCL(clip, grounder, objective=objective)


def blank(sizes: TCLSizes, kind: Callable[..., Model]) -> Model:
    """A model of class `kind` whose weights are yet to be loaded."""
    clip = build_clip(sizes.clip)
    grounder = build_grounder(
        clip,
        frozen_blocks=sizes.frozen_blocks,
        decoder_levels=sizes.decoder_levels,
        ordinary_attention=sizes.ordinary_attention,
    )
    return kind(clip, grounder)
