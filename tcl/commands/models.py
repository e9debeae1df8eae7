"""`tcl models`: the checkpoints that can be named, where they come from and where they lie."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tcl.commands.workspace import checkout, data_root
from tcl.errors import TCLError
from tcl.files import sha256
from tcl.segmenter import checkpoints as named


@dataclass(frozen=True)
class Model:
    """A checkpoint that can be named.

    file: None if it is not on this machine. run: MLflow's id of the training that made it. default: used where no
    checkpoint is named.
    """

    name: str
    origin: str
    file: str | None
    run: str | None = None
    default: bool = False


def add_parser(commands: Any) -> None:
    """Add the command's options."""
    command = commands.add_parser("models", help="list the checkpoints that --checkpoint takes by name")
    command.add_argument("--json", action="store_true", help="print them as JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print all checkpoints."""
    models = list(known_models())
    if arguments.json:
        print(json.dumps([asdict(model) for model in models], indent=2))
        return
    widths = [max(len(text) for text in column) for column in zip(*(_cells(model) for model in models), strict=True)]
    for model in models:
        print("  ".join(cell.ljust(width) for cell, width in zip(_cells(model), widths, strict=True)).rstrip())
    if not any(model.default for model in models):
        print(f"\nNothing is trained here yet: `dvc repro` makes {named.WEIGHTS / named.DEFAULT}.safetensors.")


def find(name: str | None) -> Path:
    """The checkpoint of a name, experiments of DVC included; raises TCLError if there is none."""
    experiment = (
        next((model for model in _experiments() if model.name == name), None) if _may_be_experiment(name) else None
    )
    if experiment is None:
        return named.find_checkpoint(name, folder=data_root() / "checkpoints", weights=checkout() / named.WEIGHTS)
    if experiment.file is None or not Path(experiment.file).is_file():
        apply = f"dvc exp apply {experiment.name.split('/')[0]}"
        raise TCLError(f"{name}: its weights are not in DVC's cache. `{apply}` and `dvc repro` make them again.")
    return Path(experiment.file)


def known_models() -> Iterator[Model]:
    """The project's own: variants in weights/ and experiments of DVC; then the authors' checkpoint."""
    runs = runs_by_weights()
    weights = checkout() / named.WEIGHTS
    for variant in named.variants(weights):
        file = weights / f"{variant}.safetensors"
        yield Model(variant, "trained here", str(file), _run_of(file, runs), default=variant == named.DEFAULT)
    for model in _experiments():
        yield replace(model, run=_run_of(Path(model.file), runs) if model.file else None)
    official = data_root() / "checkpoints" / named.official_facts()["file"]
    if official.is_file():
        yield Model(named.OFFICIAL, "the authors' checkpoint", str(official))
    else:
        yield Model(named.OFFICIAL, "the authors' checkpoint, fetched when it is first used", None)


def _cells(model: Model) -> list[str]:
    name = f"{model.name} (default)" if model.default else model.name
    return [name, model.origin, model.file or "-", f"MLflow run {model.run}" if model.run else ""]


def _may_be_experiment(name: str | None) -> bool:
    """Whether a name can be that of an experiment: "experiment/variant", and no file."""
    return name is not None and name.count("/") == 1 and not Path(name).exists()


def _experiments() -> Iterator[Model]:
    """Variants trained in experiments of DVC, as "experiment/variant"; none outside a DVC project."""
    if not (checkout() / ".dvc").is_dir():
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo(str(checkout())) as repo:
            listed = repo.experiments.ls(all_commits=True)
            for name, revision in (each for experiments in listed.values() for each in experiments):
                yield from _trained_in(repo, name, revision)
    except (DvcException, SCMError):  # no git repository, or one without a commit
        return


def _trained_in(repo: Any, experiment: str, revision: str) -> Iterator[Model]:
    """The variants whose weights are an out of an experiment, with their files in DVC's cache."""
    with repo.switch(revision):
        outs = [out for out in repo.index.outs if out.def_path.startswith(f"{named.WEIGHTS}/") and out.hash_info]
        for out in outs:
            variant = Path(out.def_path).stem
            if variant != "clip":
                file = Path(repo.cache.local.oid_to_path(out.hash_info.value))
                origin = f"experiment of DVC, {revision[:7]}"
                yield Model(f"{experiment}/{variant}", origin, str(file) if file.is_file() else None)


def _run_of(file: Path, runs: Mapping[str, str]) -> str | None:
    return runs.get(sha256(file)) if runs else None


def runs_by_weights() -> dict[str, str]:
    """MLflow's ids of the runs that made weights, by the SHA-256 of these; none where nothing is tracked."""
    from tcl.commands.tracking import EXPERIMENT, store

    if not os.environ.get("MLFLOW_TRACKING_URI") and not (checkout() / "mlflow.db").is_file():
        return {}
    try:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=store())
        experiments = client.search_experiments(filter_string=f"name = '{EXPERIMENT}'")
        found = client.search_runs([each.experiment_id for each in experiments], order_by=["attributes.start_time ASC"])
        return {run.data.tags["weights.sha256"]: run.info.run_id for run in found if "weights.sha256" in run.data.tags}
    except Exception as error:  # what is tracked is a help, and never a condition
        print(f"tcl models: MLflow does not answer ({type(error).__name__}: {error}).", file=sys.stderr)
        return {}
