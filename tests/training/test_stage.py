"""The stage itself when a rank hangs, the disk is full, or DVC is killed over its head."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipeline.checkout import clone

from .workplace import environment, finish, make, ranks_of, saved_steps, start


def wait_for_steps(folder: Path, steps: int, process: subprocess.Popen[str]) -> None:
    """Wait until so many steps are saved."""
    while saved_steps(folder) < steps:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


@pytest.mark.slow
def test_a_rank_that_hangs_ends_the_job(tmp_path: Path) -> None:
    folder = make(tmp_path / "workplace", last_step=199)
    process = start(folder, TCL_TIMEOUT="5")
    wait_for_steps(folder, 10, process)
    ranks = ranks_of(process)
    ranks[1].send_signal(signal.SIGSTOP)
    _, told = process.communicate(timeout=120)  # 5 seconds, and the 30 that torchrun gives the others
    assert process.returncode == 1
    assert re.search(r"no step has finished for 5 seconds|does not answer", told)
    assert "Traceback" not in told
    assert not psutil.wait_procs(ranks, timeout=10)[1]
    assert "goes on at step" in finish(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own that holds one state of the workplace's training, and no second."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_that_fills_up(small_disk: Path, tmp_path: Path) -> None:
    quiet = make(tmp_path / "quiet", keep_every=1000)
    finish(quiet)
    folder = make(tmp_path / "workplace", keep_every=1000)
    (folder / "runs").symlink_to(small_disk)
    process = start(folder, TCL_RUNS=str(small_disk))
    wait_for_steps(folder, 5, process)
    (small_disk / "other").write_bytes(b"0" * 60_000)
    _, told = process.communicate(timeout=120)
    assert "the state could not be saved" in told
    assert "No space left on device" in told
    assert process.returncode == 0, told[-3000:]
    assert (folder / "weights/tcl.safetensors").read_bytes() == (quiet / "weights/tcl.safetensors").read_bytes()


@pytest.mark.slow
def test_a_stage_ends_with_its_dvc(tmp_path: Path) -> None:
    checkout = make(clone(tmp_path / "checkout"), last_step=199)
    command = ["dvc", "repro", "--single-item", "train@tcl"]
    variables = environment(checkout, PYTHONPATH=str(checkout))
    dvc = subprocess.Popen(command, cwd=checkout, env=variables, stderr=subprocess.DEVNULL, text=True)
    while saved_steps(checkout) < 10:
        assert dvc.poll() is None
        time.sleep(0.05)
    tree = psutil.Process(dvc.pid).children(recursive=True)
    dvc.kill()
    dvc.wait()
    assert not psutil.wait_procs(tree, timeout=60)[1]
    reached = saved_steps(checkout)
    again = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-3000:]
    assert f"goes on at step {reached}" in again.stderr
