"""Checkpoints by name: variants, experiments of DVC, the authors' own with its recorded checksum."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from tcl.commands import models
from tcl.errors import TCLError
from tcl.segmenter import checkpoints
from tcl.segmenter.checkpoints import find_checkpoint, official_checkpoint

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A loopback server in the place of the authors' release: the file that it offers."""
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "tcl.pth").write_bytes(CONTENT)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    facts = {"url": f"http://127.0.0.1:{server.server_port}/tcl.pth", "file": "tcl.pth"}
    monkeypatch.setattr(checkpoints, "official_facts", lambda: facts)
    yield folder / "tcl.pth"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_official_checkpoint_is_fetched_once_and_checked_ever_after(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    file = official_checkpoint(folder)
    assert file.read_bytes() == CONTENT
    record = (folder / "tcl.pth.sha256").read_text().split()
    assert record == [hashlib.sha256(CONTENT).hexdigest(), "tcl.pth"]
    release.unlink()
    assert find_checkpoint("official", folder=folder, weights=tmp_path) == file
    file.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(TCLError, match=rf"{record[0]} was recorded in .*sha256"):
        official_checkpoint(folder)


def test_a_file_put_there_by_hand_is_recorded_too(tmp_path: Path) -> None:
    (tmp_path / "tcl.pth").write_bytes(CONTENT)
    assert official_checkpoint(tmp_path) == tmp_path / "tcl.pth"
    assert (tmp_path / "tcl.pth.sha256").is_file()


def test_offline_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "official_facts", lambda: {"url": "http://127.0.0.1:9/tcl.pth", "file": "tcl.pth"})
    with pytest.raises(TCLError, match=rf"{tmp_path}/tcl\.pth: not there.*put it at {tmp_path}/tcl\.pth"):
        official_checkpoint(tmp_path)


def test_the_pipeline_and_the_library_name_one_address() -> None:
    conf = yaml.safe_load((Path(__file__).parents[2] / "conf" / "profile" / "paper.yaml").read_text())
    facts = checkpoints.official_facts()
    official = conf["checkpoints"]["official"]
    assert official["url"] == facts["url"]
    assert Path(official["path"]).name == facts["file"]


def test_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match=r"dvc repro"):
        find_checkpoint(weights=tmp_path)
    for name in ("clip", "tcl", "no_smoothness"):
        (tmp_path / f"{name}.safetensors").touch()
    assert find_checkpoint(weights=tmp_path) == tmp_path / "tcl.safetensors"
    assert find_checkpoint("no_smoothness", weights=tmp_path) == tmp_path / "no_smoothness.safetensors"
    assert find_checkpoint(tmp_path / "tcl.safetensors", weights=tmp_path) == tmp_path / "tcl.safetensors"
    with pytest.raises(TCLError, match="did you mean no_smoothness"):
        find_checkpoint("no_smoothnes", weights=tmp_path)
    assert checkpoints.variants(tmp_path) == ["no_smoothness", "tcl"]


def run(folder: Path, *command: str) -> None:
    subprocess.run([sys.executable, "-m", *command], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, demo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project whose one stage copies a checkpoint into weights/, run once, and once more as an experiment."""
    for variable in ("TCL_DATA", "TCL_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    shutil.copy(demo_checkpoint, folder / "made.safetensors")
    stage = {"cmd": "mkdir -p weights && cp made.safetensors weights/tcl.safetensors && echo ${seed} > seed.txt"}
    stages = {"train": {**stage, "params": ["seed"], "outs": ["weights/tcl.safetensors", "seed.txt"]}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (folder / "params.yaml").write_text("seed: 0\n")
    (folder / ".gitignore").write_text("/weights/\n/seed.txt\n/runs/\n/data/\nmade.safetensors\n")
    for command in (["init", "-q"], ["config", "user.name", "test"], ["config", "user.email", "test@localhost"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "repro", "-q")
    subprocess.run(["git", "add", "."], cwd=folder, check=True)
    subprocess.run(["git", "commit", "-qm", "project"], cwd=folder, check=True)
    run(folder, "dvc", "exp", "run", "-q", "-n", "brave", "-S", "seed=1")
    return folder


@pytest.mark.slow
def test_experiments_of_dvc_are_listed_and_can_be_named(
    project: Path, demo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    found = {model.name: model for model in models.known_models()}
    assert list(found) == ["tcl", "brave/tcl", "official"]
    assert found["tcl"].default
    assert found["official"].file is None
    assert models.find("brave/tcl").read_bytes() == demo_checkpoint.read_bytes()
    assert models.find(None) == project / "weights" / "tcl.safetensors"
    with pytest.raises(TCLError, match="brave/other"):
        models.find("brave/other")
    arguments = __import__("argparse").Namespace(json=True)
    models.run(arguments)
    assert [each["name"] for each in json.loads(capsys.readouterr().out)] == list(found)


@pytest.mark.slow
def test_the_run_of_mlflow_that_made_the_weights(
    tmp_path: Path, demo_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tcl.commands.tracking import tracked

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "weights").mkdir()
    shutil.copy(demo_checkpoint, tmp_path / "weights" / "tcl.safetensors")
    assert next(models.known_models()).run is None
    with tracked("train@tcl", {}) as tracking:
        tracking.weights("weights/tcl.safetensors")
    assert next(models.known_models()).run == tracking.id is not None
