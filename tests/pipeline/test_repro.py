"""A real `dvc repro` of a smaller demo in a temporary clone: every stage runs, and only what has changed runs again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tcl.datasets.benchmark import KEYS, MONITORS, load

from .checkout import TCL, environment, run


def _changed(checkout: Path, *overrides: str) -> set[str]:
    """The stages that overrides of the configuration would make run again."""
    run(checkout, *TCL, "config", *overrides)
    changed = set(json.loads(run(checkout, "dvc", "status", "--json")))
    run(checkout, *TCL, "config")
    return changed


def test_every_stage_leaves_its_results(finished: Path) -> None:
    for key in KEYS:
        for place in (f"tcl/{key}", f"maskclip/{key}", f"gem/{key}"):
            result = json.loads((finished / "results" / f"{place}.json").read_text())
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
    scored = {f"evaluate@tcl-{key}" for key in KEYS} | {f"baselines@{key}" for key in KEYS}
    assert changed == scored | {"thresholds", "monitor@tcl", "report"}


def test_a_training_setting_leaves_the_data_alone(finished: Path) -> None:
    assert _changed(finished, "train.lr=0.001") == {"train@tcl"}


@pytest.mark.parametrize(
    ("stage", "unused"),
    [
        ("report", {"torch", "cv2", "open_clip", "mmseg"}),
        ("prepare voc", {"torch", "mlflow", "mmseg"}),
        (
            "launch evaluate tcl voc",
            {"timm", "mlflow", "albumentations", "wandb", "pandas", "matplotlib", "img2dataset"},
        ),
    ],
)
def test_a_stage_imports_only_what_it_uses(workspace: Path, stage: str, unused: set[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", *f"stages.{stage}".split()]
    result = subprocess.run(command, cwd=workspace, env=environment(workspace), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rpartition("|")[2].strip() for line in lines}
    packages = {name.partition(".")[0] for name in modules if "." in name}  # an import that failed has no submodules
    assert "tcl" in packages
    assert not packages & unused


def test_an_ablation_more_is_that_variant_alone(finished: Path) -> None:
    changed = _changed(finished, "ablations.trained=[no_area]")
    assert changed == {"ablation@no_area-0", "ablation_score@no_area-0", "report"}


@pytest.mark.parametrize(
    ("arguments", "scored"),
    [
        ("tcl", ["monitors/tcl/context/t_context59", "monitors/tcl/voc/t_voc20"]),
        ("tcl pamr", [f"sweeps/pamr/{load(key).dataset}/*/{key}" for key in (*KEYS, *MONITORS)]),
    ],
)
def test_a_scoring_leaves_what_the_report_reads(workspace: Path, arguments: str, scored: list[str]) -> None:
    before = set(workspace.glob("results/**/*.json"))
    command = [sys.executable, "-m", "stages.launch", "score", *arguments.split()]
    subprocess.run(command, cwd=workspace, env=environment(workspace), check=True, capture_output=True)
    written = set(workspace.glob("results/**/*.json")) - before
    expected = [set(workspace.glob(f"results/{place}.json")) for place in scored]
    assert all(expected)
    assert written == set().union(*expected)
