"""`tcl compare`: two revisions of a small checkout of git and DVC, an experiment, and a run of MLflow."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcl.commands import revisions
from tcl.commands.compare import compare, page
from tcl.commands.main import main
from tcl.commands.revisions import read_revision
from tcl.commands.tracking import tracked
from tcl.errors import TCLError
from tcl.files import write_json, write_text

NUMBERS = {"tcl": {"voc": 50.0, "average": 50.0}, "clip": {"voc": 10.0, "average": 10.0}}


def git(*arguments: str) -> str:
    identity = ("-c", "user.name=A", "-c", "user.email=a@b")
    return subprocess.run(["git", *identity, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def keep(content: str) -> str:
    """A file in DVC's cache: its hash."""
    md5 = hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()
    write_text(f".dvc/cache/files/md5/{md5[:2]}/{md5[2:]}", content)
    return md5


def record(*, lr: float, pairs: int, code: str, numbers: dict[str, Any]) -> None:
    """What DVC leaves of a run."""
    pair_list = keep(json.dumps({"counts": {"succeeded": pairs}, "shards": []}))
    voc = keep(json.dumps({"voc": {"images": 100, "digest": "x"}}))
    stages: dict[str, Any] = {
        "download@world": {"outs": [{"path": "manifests/pairs/world.json", "md5": pair_list}]},
        "prepare@voc": {"outs": [{"path": "manifests/voc.json", "md5": voc}]},
        "train@tcl": {
            "deps": [{"path": "tcl/model", "md5": code}, {"path": "manifests/pairs", "md5": pair_list}],
            "params": {"params.yaml": {"train": {"lr": lr, "eps": 1.0e-6}}},
            "outs": [{"path": "weights/tcl.safetensors", "md5": keep(f"weights {lr}")}],
        },
    }
    write_text("params.yaml", yaml.safe_dump({"train": {"lr": lr, "eps": 1.0e-6}, "seed": 0}))
    write_text("dvc.lock", yaml.safe_dump({"schema": "2.0", "stages": stages}).replace("1.0e-06", "1e-06"))
    write_json("metrics.json", numbers)
    write_text("tcl/model/clip.py", f"# {code}\n")


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two commits, the workspace like the second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    revisions._cache.cache_clear()
    git("init", "--quiet", "--initial-branch", "main")
    write_text(".dvc/config", "")
    write_text(".gitignore", "/.dvc/\n/mlflow.db*\n/mlartifacts/\n")
    record(lr=0.1, pairs=900, code="a" * 32, numbers=NUMBERS)
    git("add", ".")
    git("commit", "--quiet", "--message", "First results")
    git("tag", "first")
    better = {**NUMBERS, "tcl": {"voc": 52.5, "average": 52.5}, "sclip": {"voc": 20.0, "average": 20.0}}
    record(lr=0.2, pairs=950, code="b" * 32, numbers=better)
    git("add", ".")
    git("commit", "--quiet", "--message", "A higher rate")
    return tmp_path


def lines(a: str, b: str) -> list[str]:
    return [" ".join(line.split()) for line in page(compare(read_revision(a), read_revision(b)))]


def test_all_that_differs_on_one_screen(history: Path) -> None:
    shown = lines("first", "workspace")
    assert shown[0].startswith("A first: ")
    assert shown[0].endswith("First results")
    assert shown[1] == "B workspace: this checkout as it is"
    assert shown[2:4] == ["configuration", "train.lr: 0.1 → 0.2"]
    assert shown[4] == "data"
    assert "(900 pairs) → " in shown[5]
    assert shown[5].endswith("(950 pairs)")
    assert shown[6:10] == ["code that stages ran", "tcl/model: train", "files", "tcl/model/clip.py +1 -1"]
    assert shown[10] == "weights"
    assert "SHA-256" in shown[11]
    assert shown[12:] == [
        "numbers tcl sclip",
        "A B B - A A B B - A",
        "voc 50.00 52.50 +2.50 - 20.00",
        "average 50.00 52.50 +2.50 - 20.00",
        "the same: clip",
    ]


def test_either_order_and_nothing_at_all(history: Path) -> None:
    found = compare(read_revision("workspace"), read_revision("first"))
    assert found["configuration"] == {"train.lr": [0.2, 0.1]}
    assert found["numbers"]["tcl"]["voc"] == [52.5, 50.0]
    assert found["files"] == {"tcl/model/clip.py": "+1 -1"}
    shown = lines("HEAD", "workspace")
    assert shown[2:] == [
        *(f"{part}: the same" for part in ("configuration", "data", "code that stages ran", "files", "weights")),
        "numbers: the same",
    ]


def test_numbers_of_another_configuration_are_said_to_be_so(history: Path) -> None:
    write_text("params.yaml", yaml.safe_dump({"train": {"lr": 0.3, "eps": 1.0e-6}, "seed": 0}))
    assert read_revision("workspace").behind == ("train@tcl",)
    assert lines("HEAD", "workspace")[2].endswith("so that its numbers are older: train@tcl")


def test_as_json(history: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tcl", "compare", "first", "--json"])
    main()
    found = json.loads(capsys.readouterr().out)
    assert found["b"]["name"] == "workspace"
    assert found["data"]["pairs/world"][0]["counts"] == {"pairs": 900}
    assert found["stages"] == {"tcl/model": ["train@tcl"]}
    assert found["numbers"]["clip"]["voc"] == [10.0, 10.0]
    assert found["weights"]["tcl"][0]["run"] is None


def test_long_sections_are_cut_and_counted(history: Path) -> None:
    write_text("params.yaml", yaml.safe_dump({f"key{i}": i for i in range(30)}))
    write_json("metrics.json", {f"variant-{i}": {"voc": float(i), "average": float(i)} for i in range(40)})
    shown = lines("first", "workspace")
    assert len(shown) < 50
    assert "and 23 more; --json has all" in shown
    assert "also variant-9: - → 9.00 on average" in shown


def test_what_is_not_there_is_said(history: Path) -> None:
    with pytest.raises(TCLError, match=r"frist: neither a revision of git, nor .* of MLflow; did you mean first\?"):
        read_revision("frist")
    git("rm", "--quiet", "metrics.json")
    git("commit", "--quiet", "--message", "No numbers")
    with pytest.raises(TCLError, match=r"HEAD: there is no metrics\.json in it; `dvc repro` makes it"):
        read_revision("HEAD")
    git("rm", "--quiet", "params.yaml", "dvc.lock")
    git("commit", "--quiet", "--message", "Nothing")
    with pytest.raises(TCLError, match=r"main: there is no params\.yaml in it; is it a revision of this project\?"):
        read_revision("main")


def test_without_a_lock_the_numbers_are_compared_all_the_same(history: Path) -> None:
    (history / "dvc.lock").unlink()
    shown = lines("first", "workspace")
    assert "data: not recorded in both" in shown
    assert "weights: not recorded in both" in shown
    assert "average 50.00 52.50 +2.50 - 20.00" in shown


@pytest.mark.slow
def test_a_run_of_mlflow(history: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = yaml.safe_load((history / "params.yaml").read_text())
    with tracked("high", parameters, tags={"tcl.kind": "experiment"}) as run:
        run.log({"tcl/voc": 52.499999, "tcl/average": 52.5, "ablations/no_area/voc": 1.0})
        run.file("params.yaml")
        write_text("manifests/pairs/world.json", json.dumps({"counts": {"succeeded": 900}, "shards": []}))
        run.file("manifests", "manifests")
    with tracked("train@tcl", parameters, tags={"dvc.stage": "train@tcl"}) as training:
        write_text("weights/tcl.safetensors", "weights 0.2")
        training.weights("weights/tcl.safetensors")
    for name in ("high", str(run.id)):
        found = compare(read_revision("first"), read_revision(name))
        assert found["configuration"] == {"train.lr": [0.1, 0.2]}
        assert found["numbers"]["tcl"]["voc"] == [50.0, 52.5]
        assert found["numbers"]["ablations/no_area"] == {"voc": [None, 1.0]}
        assert "pairs/world" not in found["data"]
        assert (found["stages"], found["weights"]) == (None, None)
        assert found["files"] == {"tcl/model/clip.py": "+1 -1"}
    assert compare(read_revision("first"), read_revision("HEAD"))["weights"]["tcl"][1]["run"] == training.id
    with pytest.raises(TCLError, match="MLflow's run of train@tcl, which holds no results"):
        read_revision(str(training.id))


STAGE = """
stages:
  report:
    cmd: >-
      python -c "import json, yaml; lr = yaml.safe_load(open('params.yaml'))['train']['lr'];
      json.dump({'tcl': {'voc': lr, 'average': lr}}, open('metrics.json', 'w'))"
    params: [train]
    metrics: [{metrics.json: {cache: false}}]
"""


@pytest.mark.slow
def test_an_experiment_of_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dvc(*arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    git("init", "--quiet", "--initial-branch", "main")
    git("config", "user.name", "A")
    git("config", "user.email", "a@b")
    dvc("init", "--quiet")
    write_text("params.yaml", "train: {lr: 0.1, eps: 1.0e-06}\n")
    write_text("dvc.yaml", STAGE)
    dvc("repro")
    git("add", ".")
    git("commit", "--quiet", "--message", "Results")
    dvc("exp", "run", "--name", "low", "--set-param", "train.lr=0.05")
    git("checkout", "--quiet", ".")
    found = compare(read_revision("low"), read_revision("workspace"))
    assert found["configuration"] == {"train.lr": [0.05, 0.1]}
    assert found["numbers"]["tcl"]["voc"] == [0.05, 0.1]
    assert found["a"]["behind"] == found["b"]["behind"] == []
    with pytest.raises(TCLError, match=r"lov: .*did you mean low\?"):
        read_revision("lov")
