"""python -m stages.launch baselines BENCHMARK: score the training-free methods on one benchmark, all in one process."""

import sys
from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.results import write_outcome
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.datasets import benchmark as benchmarks
from tcl.inference.evaluate import Pictures, evaluate
from tcl.inference.masks import MaskCLIP
from tcl.inference.settings import InferenceSettings
from tcl.model.checkpoint import load_clip
from tcl.model.clip import ClipSizes
from tcl.model.ranks import Ranks, joined_ranks

METHODS = {"maskclip": MaskCLIP}


def main(key: str, ranks: Ranks) -> None:
    config = load_config()
    chosen = config.benchmarks[key]
    clip = load_clip(Path("weights/clip.safetensors"), expected=ClipSizes(**config.model.clip.model_dump())).to(
        ranks.device
    )
    settings = InferenceSettings(**config.evaluate.model_dump(exclude={"overlays"})).but(
        bg_thresh=config.baselines.bg_thresh
    )
    for method in config.baselines.methods:
        outcome = evaluate(
            METHODS[method](clip, settings, levels=config.model.decoder_levels),
            benchmarks.load(key),
            data_root() / config.datasets[chosen.dataset].root,
            settings=settings,
            only=chosen.classes,
            ranks=ranks,
            pictures=Pictures(Path(f"overlays/{method}/{key}"), config.evaluate.overlays),
        )
        if ranks.first:
            write_outcome(outcome, method, key)


if __name__ == "__main__":
    with boundary(f"baselines {sys.argv[1]}"), joined_ranks() as ranks:
        main(sys.argv[1], ranks)
