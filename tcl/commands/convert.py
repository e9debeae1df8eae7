"""`tcl convert`: a checkpoint of the authors' layout as one of ours, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "convert",
        help="convert a checkpoint between the authors' layout and ours",
        description="Write a checkpoint, whichever layout it has, as one of ours (--out *.safetensors) or in the "
        "authors' layout (any other name), which their code can evaluate.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="ours or the authors'")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="CLIP for an authors' checkpoint without its towers")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Read, check and write the checkpoint; inference settings go along where the layout can hold them."""
    from tcl.inference.load import load
    from tcl.model.checkpoint import save_tcl, tcl_sizes
    from tcl.model.official import save_official

    model = load(arguments.checkpoint, clip=arguments.clip)
    if arguments.out.suffix == ".safetensors":
        save_tcl(arguments.out, model, inference=model.settings.to_dict())
    else:
        save_official(arguments.out, model, source=str(arguments.checkpoint))
    sizes = tcl_sizes(model)
    print(
        f"{arguments.out}: image tower of {sizes.clip.vision_layers} blocks and width {sizes.clip.vision_width}, "
        f"{sizes.frozen_blocks} of them frozen, {sizes.decoder_levels} decoder levels."
    )
