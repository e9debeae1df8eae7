"""`tcl evaluate`: score a checkpoint on one benchmark, on data in the official folder layout."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tcl.errors import TCLError
from tcl.files import write_json

SETTINGS = ("pamr", "bg_thresh", "kp_w", "templates", "short_side", "window", "stride")
"""The inference settings that have an option; one that is not given is the checkpoint's."""


def add_parser(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "evaluate",
        help="score a checkpoint on one benchmark",
        description="Score a checkpoint on one benchmark. Settings that are not given are those that the checkpoint "
        "carries; a checkpoint in the authors' layout has the paper's. Under torchrun the images are shared out.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="ours or the authors'")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="CLIP for an authors' checkpoint without its towers")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the root of the data sets")
    parser.add_argument("--benchmark", required=True, metavar="KEY", help="voc, context, coco_object, ...")
    parser.add_argument("--pamr", action=argparse.BooleanOptionalAction, help="refine masks by the image, or do not")
    parser.add_argument("--bg-thresh", type=float, metavar="X", help="the background's constant score, 0 to 1")
    parser.add_argument("--kp-w", type=float, metavar="X", help="share of the frozen CLIP's own map, 0 to 1")
    parser.add_argument("--templates", metavar="NAME", help="the prompts: custom, full, subset, simple, ...")
    parser.add_argument("--short-side", type=int, metavar="N", help="pixels that an image's short side is resized to")
    parser.add_argument("--window", type=int, metavar="N", help="side of the sliding windows in pixels")
    parser.add_argument("--stride", type=int, metavar="N", help="step of the sliding windows in pixels")
    parser.add_argument("--bfloat16", action="store_true", help="towers and decoder in bfloat16: faster, not exact")
    parser.add_argument("--maps", type=Path, metavar="DIR", help="also write each image's class indices as PNG")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the result, as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, and write the result from the first rank."""
    from tcl.datasets import benchmark as benchmarks

    benchmark = benchmarks.load(arguments.benchmark)
    if not arguments.data.is_dir():
        raise TCLError(f"--data {arguments.data}: there is no such folder. {benchmark.layout()}")
    benchmark.samples(arguments.data)

    from tcl.inference.evaluate import evaluate
    from tcl.inference.load import load
    from tcl.inference.masks import InBfloat16
    from tcl.inference.prompts import prompt_templates
    from tcl.inference.settings import InferenceSettings
    from tcl.model.ranks import joined_ranks

    with joined_ranks() as ranks:
        model = load(arguments.checkpoint, clip=arguments.clip)
        chosen = model.settings.but(**{name: getattr(arguments, name) for name in SETTINGS})
        model.settings = InferenceSettings.from_dict(chosen.to_dict(), source="settings")
        prompt_templates(model.settings.templates)
        model = model.to(ranks.device)
        outcome = evaluate(
            InBfloat16(model) if arguments.bfloat16 else model,
            benchmark,
            arguments.data,
            settings=model.settings,
            ranks=ranks,
            maps=arguments.maps,
        )
        if ranks.first:
            result = outcome.result | ({"precision": "bfloat16"} if arguments.bfloat16 else {})
            write_json(arguments.out, result)
            scores = ", ".join(f"{name} {outcome.result[name]:.2f}" for name in ("mIoU", "mAcc", "aAcc"))
            print(f"{benchmark.title}: {scores} ({outcome.result['images']} images). Written to {arguments.out}.")
