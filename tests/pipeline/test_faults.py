"""What can go wrong: every stage answers with a sentence and a failed status, not with a traceback."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from .checkout import TCL, environment, run

VOC = Path("data/world-benchmarks/VOCdevkit/VOC2012")


def refused(folder: Path, *command: str, **variables: str) -> str:
    """What a command says that must fail without a traceback."""
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment(folder) | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1, result.stderr[-3000:]
    assert "Traceback" not in result.stderr, result.stderr[-3000:]
    return result.stderr


def edit(folder: Path, key: str, value: object) -> None:
    """Set one value of params.yaml by its dotted key."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    section = params
    for parent in parents:
        section = section[parent]
    section[last] = value
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.sed", 1, r"train\.sed: there is no such key; did you mean seed\?"),
        ("train.lr", "fast", r"train\.lr: .*got 'fast'"),
        ("evaluate.kp_w", 1.5, r"evaluate\.kp_w: .*less than or equal to 1; got 1\.5"),
    ],
)
def test_configuration(workspace: Path, key: str, value: object, message: str) -> None:
    edit(workspace, key, value)
    assert re.search(message, refused(workspace, "stages.report"))
    assert re.search(message, refused(workspace, "stages.launch", "train", "tcl"))


def test_an_override_out_of_range_stops_an_experiment(finished: Path) -> None:
    for override, message in (
        ("evaluate.kp_w=1.5", "evaluate.kp_w: Input should be less than or equal to 1; got 1.5"),
        ("evaluate.kp_W=0", "kp_W"),
    ):
        command = ["dvc", "exp", "run", "-S", override]
        result = subprocess.run(command, cwd=finished, env=environment(finished), capture_output=True, text=True)
        run(finished, "git", "checkout", "--quiet", ".")
        run(finished, "dvc", "checkout", "--force")  # DVC removes the outs of a stage before it runs
        assert result.returncode != 0
        assert message in result.stderr


def test_outside_a_project(tmp_path: Path) -> None:
    for command in (["stages.report"], ["tcl.commands.main", "config"], ["tcl.commands.main", "show"]):
        result = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env=environment(Path(__file__).parents[2]),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 1
        assert re.search(r"not found\. (Run from the project's root|`dvc repro` makes it)", result.stderr)


@pytest.mark.parametrize("made", [(), ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")])
def test_a_data_set_that_is_missing_or_empty(workspace: Path, made: tuple[str, ...]) -> None:
    shutil.copytree(Path(__file__).parents[2] / "conf", workspace / "conf", dirs_exist_ok=True)
    run(workspace, *TCL, "config", "profile=paper", "datasets.voc.archives=null")
    for folder in made:
        (workspace / "data" / "VOCdevkit" / "VOC2012" / folder).mkdir(parents=True)
    message = refused(workspace, "stages.prepare", "voc")
    assert "VOCdevkit/VOC2012/JPEGImages/*.jpg" in message


def test_a_shard_truncated_after_the_download(workspace: Path) -> None:
    shard = workspace / "data" / "world" / "00000.tar"
    shard.write_bytes(shard.read_bytes()[:-2000])
    assert re.search(r"00000\.tar: has \d+ bytes, \d+ are expected", refused(workspace, "stages.train", "tcl"))


def test_swapped_columns(workspace: Path) -> None:
    edit(workspace, "sources.world.columns", {"url": 0, "caption": 1})
    message = refused(workspace, "stages.download", "world")
    assert "the columns are the other way round" in message
    assert "Nothing was downloaded" in message


def test_a_label_out_of_range(workspace: Path) -> None:
    labels = next((workspace / VOC / "SegmentationClass").glob("*.png"))
    split = workspace / VOC / "ImageSets" / "Segmentation" / "val.txt"
    split.write_text(f"{labels.stem}\n")
    Image.fromarray(np.full(Image.open(labels).size[::-1], 77, dtype=np.uint8)).save(labels)
    assert f"{labels.name}: holds 77; valid are 0 to 20" in refused(workspace, "stages.prepare", "voc")
    assert "class 77 occurs" in refused(workspace, "stages.launch", "evaluate", "tcl", "voc")


@pytest.mark.parametrize("broken", ["missing label map", "unreadable image"])
def test_an_image_or_its_label_map(workspace: Path, broken: str) -> None:
    name = (workspace / VOC / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[0]
    if broken == "missing label map":
        (workspace / VOC / "SegmentationClass" / f"{name}.png").unlink()
    else:
        (workspace / VOC / "JPEGImages" / f"{name}.jpg").write_bytes(b"<html>gone</html>")
    assert name in refused(workspace, "stages.prepare", "voc")
    assert re.search(f"{name}.*cannot be read", refused(workspace, "stages.launch", "evaluate", "tcl", "voc"))


def test_weights_of_another_kind_or_shape(workspace: Path) -> None:
    weights = workspace / "weights"
    shutil.copy(weights / "clip.safetensors", weights / "tcl.safetensors")
    assert "must be a tcl-1 file" in refused(workspace, "stages.launch", "evaluate", "tcl", "voc")
    edit(workspace, "model.clip.embed_dim", 128)
    message = refused(workspace, "stages.train", "tcl")
    assert re.search(r"clip\.safetensors: .*embed_dim=64.*model\.clip", message)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_no_space_left(workspace: Path, small_disk: Path) -> None:
    message = refused(workspace, "stages.world", TCL_DATA=str(small_disk))
    assert "no space left on the disk" in message
    assert not (small_disk / "world-site").exists()


def test_a_read_only_data_root(workspace: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "read-only" in refused(workspace, "stages.world", TCL_DATA=str(small_disk))


def test_a_rank_that_dies(workspace: Path) -> None:
    edit(workspace, "train.last_step", 5000)
    process = started(workspace, "stages.launch", "train", "tcl", until="train tcl:")
    _, rank = sorted(ranks_of(process.pid))
    os.kill(rank, signal.SIGKILL)
    _, message = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "rank 1 was ended by SIGKILL" in message
    assert "Traceback" not in message
    assert not ranks_of(process.pid)


@pytest.mark.parametrize(
    ("stage", "until"),
    [
        (("stages.world",), "Demo world"),
        (("stages.launch", "train", "tcl"), "train tcl:"),
        (("stages.launch", "evaluate", "tcl", "voc"), ""),
        (("stages.report",), ""),
    ],
    ids=["world", "train", "evaluate", "report"],
)
def test_ctrl_c(workspace: Path, stage: tuple[str, ...], until: str) -> None:
    edit(workspace, "train.last_step", 5000)
    edit(workspace, "world.pairs", 20000)
    process = started(workspace, *stage, until=until)
    while not until and "site-packages" not in Path(f"/proc/{process.pid}/maps").read_text():  # it imports
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, message = process.communicate(timeout=180)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Run the same command again to carry on" in message
    assert "Traceback" not in message


def started(folder: Path, *command: str, until: str) -> subprocess.Popen[str]:
    """A command that has said `until` on its standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    said = ""
    while until not in said:
        character = process.stderr.read(1)
        assert character, said
        said += character
    return process


def ranks_of(launcher: int) -> list[int]:
    """Process ids of the ranks that a launcher has started."""
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(launcher)], capture_output=True, text=True)
    lines = [line.split(maxsplit=1) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, command in lines if "stages.train" in command]
