"""python -m stages.launch score WEIGHTS [SWEEP]: score weights on all benchmarks, in one process.

The training splits that monitor a training are scored too; of a main model, whose benchmarks have stages of their own,
these alone. Of a sweep's settings each gets result files of its own.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tcl.ablations import swept
from tcl.commands.boundary import boundary
from tcl.commands.results import write_outcome
from tcl.commands.workspace import data_root
from tcl.config import Config, Evaluate, load_config, read_params
from tcl.datasets import benchmark as benchmarks
from tcl.files import sha256
from tcl.inference.evaluate import Head, evaluate_heads
from tcl.inference.load import load
from tcl.inference.settings import InferenceSettings
from tcl.model.ranks import Ranks, joined_ranks


def main(weights: str, sweep: str | None, ranks: Ranks) -> None:
    config = load_config()
    file = f"weights/{weights}.safetensors"
    model, digest = load(file).to(ranks.device), sha256(file)
    ablation = weights.startswith("ablations/")
    folder = f"sweeps/{sweep}" if sweep else weights if ablation else f"monitors/{weights}"
    settings = sweep_settings(sweep) if sweep else {"": config.evaluate}
    for key in scored_benchmarks(config, all_of_them=ablation or sweep is not None):
        chosen = {**config.benchmarks, **config.monitors}[key]
        outcomes = evaluate_heads(
            model,
            benchmarks.load(key),
            data_root() / config.datasets[chosen.dataset].root,
            heads=[Head(inference_settings(each, chosen.bg_thresh)) for each in settings.values()],
            only=chosen.classes,
            ranks=ranks,
        )
        for label, outcome in zip(settings, outcomes, strict=True):
            if ranks.first:
                write_outcome(outcome, str(Path(folder, chosen.dataset, label, key)), weights=digest)


def sweep_settings(name: str) -> dict[str, Evaluate]:
    return swept(read_params(Path("params.yaml")), name, Path("conf/ablation"))


def inference_settings(section: Evaluate, bg_thresh: float | None) -> InferenceSettings:
    """Settings of a section; bg_thresh: the benchmark's own, which a sweep's goes before."""
    settings = InferenceSettings(**section.model_dump(exclude={"overlays"}))
    return settings if settings.bg_thresh is not None else settings.but(bg_thresh=bg_thresh)


def scored_benchmarks(config: Config, *, all_of_them: bool) -> list[str]:
    """The monitors whose training split has been verified, and before them the benchmarks if asked.

    Of the data sets that the configuration lists for ablations.
    """
    keys = (*benchmarks.KEYS, *benchmarks.MONITORS) if all_of_them else benchmarks.MONITORS
    of = {key: benchmarks.load(key).dataset for key in keys}
    return [key for key in keys if of[key] in config.ablations.datasets and key in verified_benchmarks(of[key])]


def verified_benchmarks(dataset: str) -> dict[str, Any]:
    verified: dict[str, Any] = json.loads(Path(f"manifests/{dataset}.json").read_text(encoding="utf-8"))["benchmarks"]
    return verified


if __name__ == "__main__":
    with boundary(f"score {' '.join(sys.argv[1:])}"), joined_ranks() as ranks:
        main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None, ranks)
