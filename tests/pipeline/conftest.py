"""A finished smaller demo that the pipeline's tests share."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .checkout import TCL, clone, environment, run

SMALLER = """
world: {pairs: 400, val_scenes: 4, train_scenes: 2}
sources: {world: {samples_per_shard: 200}}
clip: {training: {last_step: 7, warmup: 2, masked_steps: 3, global_batch: 16, checkpoint_every: 2}}
train: {last_step: 5, warmup: 2, decoder_only_steps: 3, global_batch: 8}
evaluate: {overlays: 2}
"""
"""What is added to the demo's profile."""


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a smaller demo, in which `dvc repro` was killed while it trained CLIP, and has then run to its end.

    Tests leave its files and its branch as they are.
    """
    checkout = clone(tmp_path_factory.mktemp("demo") / "clone")
    with open(checkout / "conf" / "profile" / "demo.yaml", "a", encoding="utf-8") as profile:
        profile.write(SMALLER)
    run(checkout, *TCL, "config")
    _kill_at(checkout, "runs/clip-*/state-*.pt", "dvc", "repro")
    assert not (checkout / "weights" / "clip.safetensors").exists()
    run(checkout, "dvc", "repro")
    for setting in ("user.name=newcomer", "user.email=newcomer@localhost"):
        run(checkout, "git", "config", *setting.split("="))
    run(checkout, "git", "add", "--all")
    run(checkout, "git", "commit", "--quiet", "-m", "A smaller demo and its results")
    return checkout


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished demo's files to break, without git and DVC."""
    folder = tmp_path / "workspace"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns(".git", ".dvc", "mlflow.db*", "mlartifacts"))
    return folder


def _kill_at(checkout: Path, pattern: str, *command: str) -> None:
    """Kill a command and all of its processes as soon as a file of this pattern is there."""
    process = subprocess.Popen(command, cwd=checkout, env=environment(checkout), start_new_session=True)
    deadline = time.monotonic() + 600
    while not list(checkout.glob(pattern)):
        assert process.poll() is None, "the command has ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
