"""A real `dvc repro` of a smaller demo in a temporary clone: every stage runs, and only what has changed runs again."""

import json
from pathlib import Path

from tcl.datasets.benchmark import KEYS

from .checkout import TCL, run


def _changed(checkout: Path, *overrides: str) -> set[str]:
    """The stages that overrides of the configuration would make run again."""
    run(checkout, *TCL, "config", *overrides)
    changed = set(json.loads(run(checkout, "dvc", "status", "--json")))
    run(checkout, *TCL, "config")
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
