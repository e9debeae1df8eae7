"""python -m stages.launch baselines BENCHMARK: score the training-free methods on one benchmark, all in one process."""

import json
import sys
from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.results import write_outcome
from tcl.commands.workspace import data_root
from tcl.config import Config, load_config
from tcl.datasets import benchmark as benchmarks
from tcl.errors import TCLError
from tcl.files import sha256
from tcl.inference.baselines import TrainingFree
from tcl.inference.evaluate import Head, Pictures, evaluate_heads
from tcl.inference.settings import InferenceSettings
from tcl.model.checkpoint import load_clip
from tcl.model.clip import ClipSizes
from tcl.model.ranks import Ranks, joined_ranks

CLIP = Path("weights/clip.safetensors")
THRESHOLDS = Path("results/thresholds.json")


def main(key: str, ranks: Ranks) -> None:
    config = load_config()
    chosen, methods = config.benchmarks[key], config.baselines.methods
    thresholds = json.loads(THRESHOLDS.read_text(encoding="utf-8"))["methods"] if THRESHOLDS.is_file() else {}
    if missing := [name for name in methods if name not in thresholds]:
        raise TCLError(
            f"{THRESHOLDS}: there is no threshold for {', '.join(missing)}. `dvc repro thresholds` makes it."
        )
    model = training_free(config, ranks)
    outcomes = evaluate_heads(
        model,
        benchmarks.load(key),
        data_root() / config.datasets[chosen.dataset].root,
        heads=[
            Head(
                model.settings.but(bg_thresh=thresholds[name]["bg_thresh"]),
                part=index,
                pictures=Pictures(Path("overlays") / name / key, config.evaluate.overlays),
            )
            for index, name in enumerate(methods)
        ],
        only=chosen.classes,
        ranks=ranks,
    )
    if ranks.first:
        weights = sha256(CLIP)
        for name, outcome in zip(methods, outcomes, strict=True):
            write_outcome(outcome, f"{name}/{key}", weights=weights)


def training_free(config: Config, ranks: Ranks) -> TrainingFree:
    """The methods that the configuration names, on the frozen CLIP, under the protocol of `evaluate`."""
    return TrainingFree(
        load_clip(CLIP, expected=ClipSizes(**config.model.clip.model_dump())).to(ranks.device),
        config.baselines.methods,
        InferenceSettings(**config.evaluate.model_dump(exclude={"overlays"})),
        levels=config.model.decoder_levels,
    )


if __name__ == "__main__":
    with boundary(f"baselines {sys.argv[1]}"), joined_ranks() as ranks:
        main(sys.argv[1], ranks)
