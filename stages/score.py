"""python -m stages.launch score WEIGHTS DATASET [SWEEP]: score weights on every benchmark of a data set.

The training splits that monitor a training are scored too; of the main model, whose benchmarks have stages of their
own, these alone. Of a sweep's settings each gets a result file of its own.
"""

import json
import sys
from pathlib import Path

from tcl.ablations import swept
from tcl.commands.boundary import boundary
from tcl.commands.results import write_outcome
from tcl.commands.workspace import data_root
from tcl.config import Evaluate, load_config, read_params
from tcl.datasets import benchmark as benchmarks
from tcl.files import sha256
from tcl.inference.evaluate import Head, evaluate_heads
from tcl.inference.load import load
from tcl.inference.settings import InferenceSettings
from tcl.model.ranks import Ranks, joined_ranks


def main(weights: str, dataset: str, sweep: str | None, ranks: Ranks) -> None:
    config = load_config()
    file = f"weights/{weights}.safetensors"
    model = load(file).to(ranks.device)
    settings = (
        {f"sweeps/{sweep}/{dataset}/{label}": each for label, each in sweep_settings(sweep).items()}
        if sweep
        else {f"{weights}/{dataset}": config.evaluate}
    )
    digest = sha256(file)
    for key in scored_benchmarks(dataset, all_of_them=weights.startswith("ablations/") or sweep is not None):
        chosen = {**config.benchmarks, **config.monitors}[key]
        outcomes = evaluate_heads(
            model,
            benchmarks.load(key),
            data_root() / config.datasets[dataset].root,
            heads=[Head(inference_settings(each, chosen.bg_thresh)) for each in settings.values()],
            only=chosen.classes,
            ranks=ranks,
        )
        for place, outcome in zip(settings, outcomes, strict=True):
            if ranks.first:
                write_outcome(outcome, f"{place}/{key}", weights=digest)


def sweep_settings(name: str) -> dict[str, Evaluate]:
    return swept(read_params(Path("params.yaml")), name, Path("conf/ablation"))


def inference_settings(section: Evaluate, bg_thresh: float | None) -> InferenceSettings:
    """Settings of a section; bg_thresh: the benchmark's own, which a sweep's goes before."""
    settings = InferenceSettings(**section.model_dump(exclude={"overlays"}))
    return settings if settings.bg_thresh is not None else settings.but(bg_thresh=bg_thresh)


def scored_benchmarks(dataset: str, *, all_of_them: bool) -> list[str]:
    """The monitors of a data set whose training split has been verified, and before them the benchmarks if asked."""
    verified = json.loads(Path(f"manifests/{dataset}.json").read_text(encoding="utf-8"))["benchmarks"]
    keys = (*benchmarks.KEYS, *benchmarks.MONITORS) if all_of_them else benchmarks.MONITORS
    return [key for key in keys if key in verified]


if __name__ == "__main__":
    with boundary(f"score {' '.join(sys.argv[1:])}"), joined_ranks() as ranks:
        main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else None, ranks)
