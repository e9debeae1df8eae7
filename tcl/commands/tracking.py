"""MLflow, at arm's length: a thread of its own does the talking, and nothing there can stop or slow a run."""

from __future__ import annotations

import fcntl
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import time
from typing import Any

from tcl.commands.workspace import checkout
from tcl.files import replacing, sha256

EXPERIMENT = "tcl"
SQLITE = "sqlite:///"
PATIENCE = 30.0
"""Seconds without progress that a finished stage waits for a store on this machine, or one that has answered."""
FIRST_PATIENCE = 5.0
"""The same for a store elsewhere that has not answered yet."""
SET_UP_PATIENCE = 60.0
"""The same for importing MLflow and making a database, which takes seconds, or many on a busy machine."""
HTTP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""MLflow's own defaults try an unreachable server for many minutes."""

Job = Callable[[Any, str], object]
"""Something to do with an MlflowClient and a run id."""


class Run:
    """One MLflow run. All methods return at once; what cannot be logged is dropped with one warning.

    name: shown in MLflow. id: of a run to go on with, which keeps its parameters; the new run's once there is one.
    """

    def __init__(self, name: str, run_id: str | None = None) -> None:
        self.name, self.id = name, run_id
        self._resumed = run_id is not None
        self._logged_until = -1
        self._done = 0
        self._ready = threading.Event()
        self._jobs: queue.Queue[Job | None] = queue.Queue(maxsize=10_000)
        self._thread: threading.Thread | None = None

    def log(self, row: Mapping[str, float]) -> None:
        """Log the quantities of one step; `row` holds the step itself too."""
        now, step = int(time() * 1000), int(row.get("step", 0))
        values = {key: float(value) for key, value in row.items() if key != "step"}

        def job(client: Any, run: str) -> None:
            if step > self._logged_until:  # a resumed training repeats what came after its last checkpoint
                client.log_batch(run, metrics=_metrics(values, now, step))

        self._put(job)

    def file(self, path: str | Path, folder: str = "") -> None:
        """Keep a copy of a file, or of all files in a folder, among the run's artifacts in `folder`."""
        path = Path(path).absolute()
        self._put(
            lambda client, run: (client.log_artifacts if path.is_dir() else client.log_artifact)(
                run, str(path), folder or None
            )
        )

    def picture(self, image: Any, name: str) -> None:
        """Keep a PIL image under a file name among the run's artifacts."""
        self._put(lambda client, run: client.log_image(run, image, name))

    def weights(self, path: str | Path) -> None:
        """Tag the run with the path and the SHA-256 of the weights that it made."""
        tags = {"weights.path": str(path), "weights.sha256": sha256(path)}
        self._put(lambda client, run: [client.set_tag(run, key, value) for key, value in tags.items()])

    def child(
        self, name: str, *, parameters: Mapping[str, Any], metrics: Mapping[str, float], folders: Mapping[str, Path]
    ) -> None:
        """Add a finished run below this one; folders: what to keep, files too, by its place among the artifacts."""
        now, parameters, metrics = int(time() * 1000), dict(parameters), dict(metrics)
        absolute = {place: folder.absolute() for place, folder in folders.items() if folder.exists()}

        def job(client: Any, run: str) -> None:
            experiment = client.get_run(run).info.experiment_id
            tags = {**_tags(), "mlflow.parentRunId": run}
            child = client.create_run(experiment, run_name=name, tags=tags).info.run_id
            _log_parameters(client, child, parameters)
            client.log_batch(child, metrics=_metrics(metrics, now, 0))
            for place, folder in absolute.items():
                (client.log_artifacts if folder.is_dir() else client.log_artifact)(child, str(folder), place)
            client.set_terminated(child)

        self._put(job)

    def start(self, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Begin to log."""
        arguments = (dict(parameters), dict(tags))
        self._thread = threading.Thread(target=self._serve, args=arguments, daemon=True)
        self._thread.start()

    def close(self, status: str) -> None:
        """End the run with MLflow's name of a status, once all is logged; gives up on a store that does not answer."""
        if self._thread is None:
            return
        self._put(lambda client, run: client.set_terminated(run, status))
        self._put(None)
        self._ready.wait(SET_UP_PATIENCE)
        done = -1
        while self._thread.is_alive() and self._done > done:
            done = self._done
            patience = PATIENCE if self.id or store().startswith(SQLITE) else FIRST_PATIENCE
            self._thread.join(patience)
        if self._thread.is_alive():
            self._give_up(f"no answer in {patience:.0f} seconds")

    def _put(self, job: Job | None) -> None:
        if self._thread is not None and self._thread.is_alive():
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                return

    def _serve(self, parameters: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        for variable, value in HTTP.items():
            os.environ.setdefault(variable, value)
        monitor = None
        try:
            client = self._client()
            if self.id is None:
                self.id = client.create_run(
                    _experiment(client), run_name=self.name, tags={**_tags(), **tags}
                ).info.run_id
            if self._resumed:
                self._logged_until = max((each.step for each in client.get_metric_history(self.id, "lr")), default=-1)
            else:
                _log_parameters(client, self.id, parameters)
            monitor = _system_monitor(client, self.id, resumed=self._resumed)
            while (job := self._jobs.get()) is not None:
                job(client, self.id)
                self._done += 1
        except Exception as error:  # tracking must never end a stage
            self._give_up(f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")
        finally:
            if monitor is not None:
                monitor.finish()

    def _client(self) -> Any:
        try:
            from mlflow import MlflowClient

            if store().startswith(SQLITE):
                _create_database(Path(store().removeprefix(SQLITE)))
        finally:
            self._ready.set()
        return MlflowClient(tracking_uri=store())

    def _give_up(self, reason: str) -> None:
        print(f"{self.name}: MLflow is left out of this run from here on ({reason}).", file=sys.stderr)


@contextmanager
def tracked(
    name: str,
    parameters: Mapping[str, Any],
    *,
    enabled: bool = True,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """A run named after the stage, with these (nested) parameters; an idle one if not enabled.

    run_id: of an interrupted stage's run, to go on with. The run ends as FINISHED, or FAILED if the block raises.
    """
    run = Run(name, run_id)
    if enabled:
        run.start(parameters, tags or {})
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        run.close(status)


def store() -> str:
    """The tracking URI in force: MLFLOW_TRACKING_URI, or a database in the main checkout."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    # A relative path would be lost with DVC's temporary copies.
    return f"{SQLITE}{(checkout() / uri.removeprefix(SQLITE)).absolute()}" if uri.startswith(SQLITE) else uri


def _create_database(path: Path) -> None:
    """Make MLflow's database if there is none, so that it is either whole or not there.

    Several processes that create one file at the same moment, or one that ends while it does, break it for good.
    """
    from mlflow import MlflowClient

    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with replacing(path) as temporary:
                MlflowClient(tracking_uri=f"{SQLITE}{temporary}").search_experiments(max_results=1)


def _experiment(client: Any) -> str:
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is not None:
        return str(found.experiment_id)
    # A store on this machine keeps artifacts where its first run ran, which may be a temporary copy, unless it is told.
    location = (checkout() / "mlartifacts").as_uri() if store().startswith(SQLITE) else None
    try:
        return str(client.create_experiment(EXPERIMENT, artifact_location=location))
    except Exception:  # another stage was quicker
        return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)


def _system_monitor(client: Any, run_id: str, *, resumed: bool) -> Any:
    """MLflow's thread that logs processor, memory, disk and GPU use every ten seconds."""
    import logging

    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(run_id, resume_logging=resumed, tracking_uri=client.tracking_uri)
    monitor.start()
    return monitor


def _metrics(values: Mapping[str, float], timestamp: int, step: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(key, value, timestamp, step) for key, value in values.items()]


def _log_parameters(client: Any, run: str, values: Mapping[str, Any]) -> None:
    """Log nested parameters, as many at a time as MLflow takes."""
    from mlflow.entities import Param

    params = [Param(key, str(value)) for key, value in flat(values)]
    for start in range(0, len(params), 100):
        client.log_batch(run, params=params[start : start + 100])


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, by their dotted keys."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _tags() -> dict[str, str]:
    names = {"dvc.stage": "DVC_STAGE", "dvc.experiment": "DVC_EXP_NAME", "dvc.baseline": "DVC_EXP_BASELINE_REV"}
    tags = {tag: os.environ[variable] for tag, variable in names.items() if variable in os.environ}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout(), capture_output=True, text=True, check=False)
    return tags | ({"mlflow.source.git.commit": commit.stdout.strip()} if commit.returncode == 0 else {})
