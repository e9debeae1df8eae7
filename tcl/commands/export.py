"""`tcl export`: the dense graph for other runtimes, checked against the model before it is kept."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tcl.commands.segment import add_checkpoint_options
from tcl.errors import TCLError


def add_parser(commands: Any) -> None:
    """Add the command's options."""
    command = commands.add_parser("export", help="write the model for ONNX or torch.export, checked by numbers")
    command.add_argument("--format", choices=["onnx", "torch.export"], default="onnx", help="default: onnx")
    command.add_argument("--out", type=Path, metavar="FILE", help="default: tcl.onnx or tcl.pt2")
    command.add_argument(
        "--words", nargs="+", default=[], metavar="WORD", help="write their embeddings beside it, as FILE.words.npz"
    )
    add_checkpoint_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Write, check and say what was found."""
    from tcl.commands.models import find
    from tcl.export.write import SUFFIXES, TOLERANCE, export, write_words
    from tcl.inference.load import load
    from tcl.segmenter.words import parse_labels

    words = [label.name for label in parse_labels(arguments.words)]
    if words != arguments.words:
        raise TCLError("words: one name each; the graph gives a mask for every embedding, and knows no synonyms.")
    out = arguments.out or Path(f"tcl{SUFFIXES[arguments.format]}")
    model = load(find(arguments.checkpoint))
    for check in export(model, out, form=arguments.format):
        print(f"{check.height} x {check.width} pixels: masks within {check.difference:.1e} of PyTorch's")
    print(f"{out} written ({out.stat().st_size / 2**20:.0f} MiB); the bound is {TOLERANCE}.")
    if words:
        file = out.with_suffix(".words.npz")
        write_words(model, words, file)
        print(f"{file} written: {len(words)} embeddings.")
