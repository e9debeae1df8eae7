"""python -m stages.launch evaluate VARIANT BENCHMARK: score a trained variant on one benchmark."""

import sys
from pathlib import Path

from tcl.commands.boundary import boundary
from tcl.commands.results import write_outcome
from tcl.commands.workspace import data_root
from tcl.config import load_config
from tcl.datasets import benchmark as benchmarks
from tcl.files import sha256
from tcl.inference.evaluate import Pictures, evaluate
from tcl.inference.load import load
from tcl.inference.settings import InferenceSettings
from tcl.model.ranks import Ranks, joined_ranks


def main(variant: str, key: str, ranks: Ranks) -> None:
    config = load_config()
    chosen = config.benchmarks[key]
    weights = f"weights/{variant}.safetensors"
    model = load(weights).to(ranks.device)
    model.settings = InferenceSettings(**config.evaluate.model_dump(exclude={"overlays"})).but(
        bg_thresh=chosen.bg_thresh
    )
    outcome = evaluate(
        model,
        benchmarks.load(key),
        data_root() / config.datasets[chosen.dataset].root,
        settings=model.settings,
        only=chosen.classes,
        ranks=ranks,
        pictures=Pictures(Path(f"overlays/{variant}/{key}"), config.evaluate.overlays),
    )
    if ranks.first:
        write_outcome(outcome, f"{variant}/{key}", weights=sha256(weights))


if __name__ == "__main__":
    with boundary(f"evaluate {sys.argv[1]} {sys.argv[2]}"), joined_ranks() as ranks:
        main(sys.argv[1], sys.argv[2], ranks)
