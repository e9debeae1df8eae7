"""A real `dvc repro` of a smaller demo in a temporary clone: every stage runs, and a second run does nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tcl.datasets.benchmark import KEYS

ROOT = Path(__file__).parents[2]
SMALLER = [
    "world.pairs=400",
    "world.val_scenes=4",
    "world.train_scenes=2",
    "sources.world.samples_per_shard=200",
    "clip.training.last_step=5",
    "clip.training.warmup=2",
    "clip.training.masked_steps=3",
    "clip.training.global_batch=16",
    "train.last_step=5",
    "train.warmup=2",
    "train.decoder_only_steps=3",
    "train.global_batch=8",
    "evaluate.overlays=2",
]


def run(clone: Path, *command: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(clone)}
    for name in ("TCL_DATA", "TCL_RUNS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    result = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def test_a_smaller_demo_from_a_fresh_clone(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    run(ROOT, "git", "clone", "--quiet", str(ROOT), str(clone))
    run(clone, sys.executable, "-m", "tcl.commands.main", "config", *SMALLER)
    run(clone, "dvc", "repro")
    for variant in ("tcl", "maskclip"):
        for key in KEYS:
            result = json.loads((clone / "results" / variant / f"{key}.json").read_text())
            assert result["benchmark"] == key
            assert result["images"] == 4
            assert 0 <= result["mIoU"] <= 100
    table = (clone / "report" / "table.md").read_text()
    assert "TCL + PAMR" in table
    assert "MaskCLIP" in table
    assert (clone / "report" / "segmentations.png").is_file()
    assert "Data and pipelines are up to date" in run(clone, "dvc", "repro")
