"""python -m stages.launch monitor VARIANT: score the weights kept along a training on the training splits."""

import sys
from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.datasets import benchmark as benchmarks
from tcl.files import write_csv
from tcl.inference.evaluate import evaluate
from tcl.inference.load import from_checkpoint
from tcl.inference.settings import InferenceSettings
from tcl.model.checkpoint import load_clip
from tcl.model.ranks import Ranks, joined_ranks
from tcl.model.snapshot import read_snapshot, snapshots


def main(variant: str, ranks: Ranks) -> None:
    config = load_config()
    sizes, common = config.model, InferenceSettings(**config.evaluate.model_dump(exclude={"overlays"}))
    clip = load_clip(Path("weights/clip.safetensors"))
    rows = []
    for step, path in snapshots(Path(f"snapshots/{variant}")).items():
        checkpoint = read_snapshot(
            path,
            clip,
            frozen_blocks=sizes.frozen_blocks,
            decoder_levels=sizes.decoder_levels,
            ordinary_attention=sizes.ordinary_attention,
        )
        model = from_checkpoint(checkpoint, source=str(path)).to(ranks.device)
        scores = {}
        for key, monitor in config.monitors.items():
            model.settings = common.but(bg_thresh=monitor.bg_thresh)
            outcome = evaluate(
                model,
                benchmarks.load(key),
                data_root() / config.datasets[monitor.dataset].root,
                settings=model.settings,
                only=monitor.classes,
                ranks=ranks,
            )
            scores[key] = outcome.result["mIoU"]
        rows.append({"step": step, **scores})
    if ranks.first:
        write_csv(Path(f"curves/monitors/{variant}.csv"), rows)


if __name__ == "__main__":
    with boundary(f"monitor {sys.argv[1]}"), joined_ranks() as ranks:
        main(sys.argv[1], ranks)
