"""MLflow, at arm's length: a thread of its own does the talking, and nothing that happens there stops a run."""

from __future__ import annotations

import fcntl
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tcl.commands.workspace import checkout

EXPERIMENT = "tcl"
PATIENCE = 20.0
"""Seconds that a finished stage waits for what is still to be logged."""


class Run:
    """One MLflow run. All methods return at once; what cannot be logged is dropped with one warning."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[Any, str], None] | None] = queue.Queue(maxsize=10_000)

    def log(self, row: Mapping[str, float]) -> None:
        """Log the quantities of one step; `row` holds the step itself too."""
        from time import time

        now, step = int(time() * 1000), int(row.get("step", 0))
        self._put(lambda client, run: client.log_batch(run, metrics=_metrics(row, now, step)))

    def _put(self, job: Callable[[Any, str], None] | None) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            return

    def _serve(self, name: str, parameters: Mapping[str, Any]) -> None:
        try:
            client = _client()
            run = client.create_run(_experiment(client), run_name=name, tags=_tags()).info.run_id
            for key, value in _flat(parameters):
                client.log_param(run, key, value)
            while (job := self._jobs.get()) is not None:
                job(client, run)
            client.set_terminated(run)
        except Exception as error:  # tracking must never end a stage
            print(f"{name}: MLflow is left out of this run ({type(error).__name__}: {error}).", file=sys.stderr)


@contextmanager
def tracked(name: str, parameters: Mapping[str, Any], *, enabled: bool = True) -> Iterator[Run]:
    """A run named after the stage, with these (nested) parameters; an idle one if not enabled."""
    run = Run()
    if not enabled:
        yield run
        return
    thread = threading.Thread(target=run._serve, args=(name, parameters), daemon=True)
    thread.start()
    try:
        yield run
    finally:
        run._put(None)
        thread.join(PATIENCE)


def _client() -> Any:
    """A client of the store that MLFLOW_TRACKING_URI names, or of a database in the main checkout."""
    from mlflow import MlflowClient

    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{checkout() / 'mlflow.db'}"
    # Several processes that create one sqlite file at the same moment break it for good.
    with open(checkout() / "mlflow.db.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=(checkout() / "mlartifacts").as_uri()))
    except Exception:  # another stage was quicker
        return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)


def _metrics(row: Mapping[str, float], timestamp: int, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(key, float(value), timestamp, step) for key, value in row.items() if key != "step"]


def _tags() -> dict[str, str]:
    names = {"dvc.stage": "DVC_STAGE", "dvc.experiment": "DVC_EXP_NAME", "dvc.baseline": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[variable] for tag, variable in names.items() if variable in os.environ}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
