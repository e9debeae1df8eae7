"""Tracking beside trouble: runs that start together, one that is killed, a store that cannot be reached or written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from .checkout import environment

STAGE = """
import sys, time
from tcl.commands.tracking import tracked
name, steps, pause = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
with tracked(name, {"train": {"lr": 0.1}}, run_id=sys.argv[4] if len(sys.argv) > 4 else None) as run:
    for step in range(steps):
        run.log({"step": step, "lr": 0.1, "total": 1.0 / (step + 1)})
        time.sleep(pause)
    run.file("params.yaml")
"""


def stage(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """A process that logs as a stage does."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, *arguments],
        cwd=folder,
        env=environment(root) | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    return tmp_path


def test_runs_that_start_together_are_whole_whatever_happens_to_others(folder: Path) -> None:
    whole = [stage(folder, f"whole {number}", "50", "0.02") for number in range(3)]
    killed = stage(folder, "killed", "100000", "0.01")
    lost = stage(folder, "lost", "50", "0", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert lost.wait(120) == 0
    assert lost.stderr is not None
    assert lost.stderr.read().count("MLflow is left out") == 1
    for process in whole:
        assert process.wait(120) == 0
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tcl")
    assert experiment is not None
    found = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for number in range(3):
        run = found[f"whole {number}"]
        assert run.info.status == "FINISHED"
        assert run.data.params == {"train.lr": "0.1"}
        assert [each.step for each in client.get_metric_history(run.info.run_id, "total")] == list(range(50))
        assert [each.path for each in client.list_artifacts(run.info.run_id)] == ["params.yaml"]


def test_an_interrupted_run_goes_on_without_repeating_steps(folder: Path) -> None:
    assert stage(folder, "first", "20", "0").wait(120) == 0
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tcl")
    assert experiment is not None
    run_id = client.search_runs([experiment.experiment_id])[0].info.run_id
    assert stage(folder, "first", "30", "0", run_id).wait(120) == 0
    assert [each.step for each in client.get_metric_history(run_id, "total")] == list(range(30))
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_a_store_that_never_answers_does_not_hold_a_stage_up(folder: Path) -> None:
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = stage(folder, "silent", "5", "0", MLFLOW_TRACKING_URI=uri)
        began = time.monotonic()
        assert process.wait(120) == 0
        assert process.stderr is not None
        assert "MLflow is left out" in process.stderr.read()
        assert time.monotonic() - began < 90


def test_a_store_that_cannot_be_written(folder: Path) -> None:
    process = stage(folder, "nowhere", "5", "0", MLFLOW_TRACKING_URI="sqlite:////proc/mlflow.db")
    assert process.wait(120) == 0
    assert process.stderr is not None
    assert process.stderr.read().count("MLflow is left out") == 1
