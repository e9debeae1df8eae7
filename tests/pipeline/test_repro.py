"""A real `dvc repro` of a smaller demo in a temporary clone: every stage runs, and only what has changed runs again."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tcl.datasets.benchmark import KEYS

from .checkout import TCL, clone, environment, run

SMALLER = [
    "world.pairs=400",
    "world.val_scenes=4",
    "world.train_scenes=2",
    "sources.world.samples_per_shard=200",
    "clip.training.last_step=7",
    "clip.training.warmup=2",
    "clip.training.masked_steps=3",
    "clip.training.global_batch=16",
    "clip.training.checkpoint_every=2",
    "train.last_step=5",
    "train.warmup=2",
    "train.decoder_only_steps=3",
    "train.global_batch=8",
    "evaluate.overlays=2",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which `dvc repro` was killed while it trained CLIP, and has then run to its end."""
    checkout = clone(tmp_path_factory.mktemp("demo") / "clone")
    run(checkout, *TCL, "config", *SMALLER)
    _kill_at(checkout, "runs/clip-*/state.pt", "dvc", "repro")
    assert not (checkout / "weights" / "clip.safetensors").exists()
    run(checkout, "dvc", "repro")
    return checkout


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


def _changed(checkout: Path, *overrides: str) -> set[str]:
    """The stages that overrides of the configuration would make run again."""
    run(checkout, *TCL, "config", *SMALLER, *overrides)
    changed = set(json.loads(run(checkout, "dvc", "status", "--json")))
    run(checkout, *TCL, "config", *SMALLER)
    return changed


def test_every_stage_leaves_its_results(finished: Path) -> None:
    for variant in ("tcl", "maskclip"):
        for key in KEYS:
            result = json.loads((finished / "results" / variant / f"{key}.json").read_text())
            assert result["benchmark"] == key
            assert result["images"] == 4
            assert 0 <= result["mIoU"] <= 100
    table = (finished / "report" / "table.md").read_text()
    assert "TCL + PAMR" in table
    assert "MaskCLIP" in table
    assert (finished / "report" / "segmentations.png").is_file()


def test_a_killed_training_was_resumed(finished: Path) -> None:
    assert not list(finished.glob("runs/clip-*")), "a finished training leaves no state behind"
    assert (finished / "weights" / "clip.safetensors").is_file()


def test_a_second_run_does_nothing(finished: Path) -> None:
    assert "Data and pipelines are up to date" in run(finished, "dvc", "repro")


def test_a_benchmark_setting_reruns_that_benchmark_alone(finished: Path) -> None:
    assert _changed(finished, "benchmarks.voc.bg_thresh=0.6") == {"evaluate@tcl-voc", "baselines@voc", "report"}


def test_an_evaluation_setting_never_retrains(finished: Path) -> None:
    changed = _changed(finished, "evaluate.pamr=false")
    assert changed == {f"evaluate@tcl-{key}" for key in KEYS} | {f"baselines@{key}" for key in KEYS} | {"report"}


def test_a_training_setting_leaves_the_data_alone(finished: Path) -> None:
    assert _changed(finished, "train.lr=0.001") == {"train@tcl"}
