"""Experiments beside the committed run: DVC and MLflow tell the same story of both, and the workspace stays usable."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tcl.datasets.benchmark import KEYS

from .checkout import environment, run


def restore(checkout: Path) -> None:
    """Back to the committed run, whose results are in the cache."""
    run(checkout, "git", "checkout", "--quiet", ".")
    run(checkout, "dvc", "checkout", "--force")


def store(checkout: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{checkout / 'mlflow.db'}")


def runs(checkout: Path, **tags: str) -> list[Any]:
    """MLflow's runs with these tags, the newest first."""
    query = " and ".join(f"tags.`{key.replace('__', '.')}` = '{value}'" for key, value in tags.items())
    experiment = store(checkout).get_experiment_by_name("tcl")
    assert experiment is not None
    return list(store(checkout).search_runs([experiment.experiment_id], query))


def artifacts(checkout: Path, run_id: str) -> set[str]:
    return {each.path for each in store(checkout).list_artifacts(run_id)}


def test_mlflow_has_a_run_for_each_stage_that_matters(finished: Path) -> None:
    training = runs(finished, dvc__stage="train@tcl")[0]
    assert training.info.status == "FINISHED"
    assert training.data.params["train.lr"] == "0.004"
    assert {"total", "tcli", "tclf", "lr", "grad_norm"} <= set(training.data.metrics)
    assert len(training.data.tags["weights.sha256"]) == 64
    assert runs(finished, dvc__stage="clip")


def test_mlflow_mirrors_the_results(finished: Path) -> None:
    experiment = runs(finished, tcl__kind="experiment")[-1]
    metrics = json.loads((finished / "metrics.json").read_text())
    for key in (*KEYS, "average"):
        assert experiment.data.metrics[f"tcl/{key}"] == pytest.approx(metrics["tcl"][key], abs=0.01)
    assert experiment.data.params["evaluate.pamr"] == "True"
    assert artifacts(finished, experiment.info.run_id) == {"manifests", "params.yaml", "report"}
    children = runs(finished, mlflow__parentRunId=experiment.info.run_id)
    assert {child.info.run_name for child in children} == {
        f"workspace/{name}" for name in ("tcl", "clip", "maskclip", "sclip", "naclip", "clearclip", "gem")
    }
    for child in children:
        assert {"results", "overlays"} == artifacts(finished, child.info.run_id)
        assert "IoU/voc/background" in child.data.metrics


def test_an_experiment_is_compared_by_dvc_and_mlflow(finished: Path) -> None:
    before = json.loads((finished / "metrics.json").read_text())
    run(finished, "dvc", "exp", "run", "--name", "low", "-S", "benchmarks.voc.bg_thresh=0.0")
    difference = json.loads(run(finished, "dvc", "metrics", "diff", "--json"))["metrics.json"]
    after = json.loads((finished / "metrics.json").read_text())
    assert set(difference) == {"tcl.voc", "tcl.average"}
    assert after["tcl"]["context"] == before["tcl"]["context"]
    shown = run(finished, "dvc", "exp", "show", "--only-changed", "--csv")
    assert "low" in shown
    assert "benchmarks.voc.bg_thresh" in shown
    one, other = runs(finished, tcl__kind="experiment")[:2]
    assert (one.info.run_name, other.info.run_name) == ("low", "workspace")
    assert set(one.data.params) == set(other.data.params)
    assert set(one.data.metrics) == set(other.data.metrics)
    changed = run(finished, "git", "status", "--porcelain").split()[1::2]
    assert set(changed) <= {"dvc.lock", "metrics.json", "params.yaml"}
    restore(finished)
    assert "up to date" in run(finished, "dvc", "repro")


@pytest.mark.slow
def test_an_ablation_of_ones_own_is_trained_and_tabled(finished: Path) -> None:
    """A file and a list entry; gone again, the others' results are what they were."""
    file = finished / "conf" / "ablation" / "mine.yaml"
    file.write_text("title: twice the area\ntable: Losses\ntrain: {objective: {area: 0.8}}\n")
    run(finished, "dvc", "exp", "run", "-S", "ablations.trained=[mine]", "-S", "ablations.seeds=[0,1]")
    table = (finished / "report" / "ablations" / "losses.md").read_text()
    assert " ± " in table
    assert "missing" not in table.partition("twice the area")[2]
    metrics = json.loads((finished / "metrics.json").read_text())
    assert set(metrics["ablations/mine"]) >= {"voc", "t_voc20", "average"}
    file.unlink()
    restore(finished)
    assert "up to date" in run(finished, "dvc", "repro")


@pytest.mark.slow
def test_results_are_the_same_when_made_again(finished: Path) -> None:
    stages = ("train@tcl", "evaluate@tcl-voc", "baselines@voc", "report")
    paths = [finished / "weights/tcl.safetensors", finished / "results/tcl/voc.json", finished / "report/table.csv"]
    first = [path.read_bytes() for path in paths]
    run(finished, "dvc", "repro", "--force", "--single-item", *stages)
    assert [path.read_bytes() for path in paths] == first
    restore(finished)


@pytest.mark.slow
def test_queued_experiments_run_two_at_a_time(finished: Path) -> None:
    before = {each.info.run_id for each in runs(finished, tcl__kind="experiment")}
    for pamr in ("true", "false"):
        for key in ("voc", "context"):
            run(
                finished,
                "dvc",
                "exp",
                "run",
                "--queue",
                "-S",
                f"evaluate.pamr={pamr}",
                "-S",
                f"benchmarks.{key}.bg_thresh=0.3",
            )
    run(finished, "dvc", "exp", "run", "--run-all", "--jobs", "2", timeout=3000)
    queued = [each for each in runs(finished, tcl__kind="experiment") if each.info.run_id not in before]
    assert len({each.info.run_name for each in queued}) == 4
    assert all(each.data.tags.get("dvc.experiment") for each in queued)
    for each in queued:
        assert each.info.status == "FINISHED"
        assert artifacts(finished, each.info.run_id) == {"manifests", "params.yaml", "report"}
    restore(finished)


@pytest.mark.slow
def test_two_nodes_share_a_cache_at_once(finished: Path, tmp_path: Path) -> None:
    """Each trains an ablation of its own; a third run that wants both finds them trained."""
    shared = {"TCL_DATA": str(finished / "data"), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}"}
    training = {"no_area": "ablation@no_area-0", "no_smoothness": "ablation@no_smoothness-0"}
    nodes = {name: tmp_path / name for name in training}
    for node in nodes.values():
        run(tmp_path, "git", "clone", "--quiet", str(finished), str(node))
        run(node, "dvc", "cache", "dir", "--local", str(finished / ".dvc" / "cache"))
        run(node, "dvc", "checkout")
    both = [
        subprocess.Popen(
            ["dvc", "exp", "run", "-S", f"ablations.trained=[{name}]", target],
            cwd=nodes[name],
            env=environment(nodes[name]) | shared,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, target in training.items()
    ]
    for process in both:
        said, _ = process.communicate(timeout=900)
        assert process.returncode == 0, said
    weights = [node / f"weights/ablations/{name}-0.safetensors" for name, node in nodes.items()]
    trained = [path.read_bytes() for path in weights]
    said = run(nodes["no_area"], "dvc", "exp", "run", "-S", f"ablations.trained=[{','.join(training)}]", "ablation")
    assert said.count("is cached - skipping run") + said.count("didn't change, skipping") >= 2
    assert [(nodes["no_area"] / path.relative_to(path.parents[2])).read_bytes() for path in weights] == trained
    client = MlflowClient(shared["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("tcl")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert sorted((each.info.run_name, each.info.status) for each in found) == [
        (f"train@ablations/{name}-0", "FINISHED") for name in sorted(training)
    ]


@pytest.mark.slow
def test_a_cache_is_shared_through_a_remote(finished: Path, tmp_path: Path) -> None:
    run(finished, "dvc", "remote", "add", "--force", "--default", "shared", str(tmp_path / "remote"))
    run(finished, "dvc", "push")
    run(finished, "git", "checkout", "--quiet", ".")
    other = tmp_path / "node"
    run(finished, "git", "clone", "--quiet", str(finished), str(other))
    run(other, "dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    run(other, "dvc", "pull")
    assert (other / "weights/tcl.safetensors").read_bytes() == (finished / "weights/tcl.safetensors").read_bytes()
    assert "up to date" in run(other, "dvc", "repro")
