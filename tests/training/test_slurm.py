"""The shipped batch script on a real SLURM: two nodes, stopped by a signal, requeued, finished."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline.checkout import clone

from .slurm import ask, cluster, what_is_missing
from .workplace import environment, finish, make, saved_steps

LAST_STEP = 299


def wait_for(what: str, variables: dict[str, str], job: str, folder: Path) -> None:
    """Wait until the job is in a state."""
    deadline = time.monotonic() + 300
    while f"JobState={what}" not in (shown := ask(variables, "scontrol", "show", "job", job)):
        output = (folder / f"slurm-{job}.out").read_text() if (folder / f"slurm-{job}.out").exists() else ""
        assert time.monotonic() < deadline, shown + output[-3000:]
        assert "JobState=FAILED" not in shown, output[-3000:]
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(bool(what_is_missing()), reason=what_is_missing())
def test_stopped_requeued_and_finished(tmp_path: Path) -> None:
    quiet = make(tmp_path / "quiet", last_step=LAST_STEP)
    finish(quiet)
    checkout = make(clone(tmp_path / "checkout"), last_step=LAST_STEP)
    with cluster() as variables:
        ours = environment(checkout, TCL_PROCESSES="1", PYTHONPATH=str(checkout), **variables)
        submitted = subprocess.run(
            ["sbatch", "--nodes=2", "launch/slurm.sh", "--single-item", "train@tcl"],
            cwd=checkout,
            env=ours,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        job = submitted.split()[-1]
        wait_for("RUNNING", variables, job, checkout)
        while saved_steps(checkout) < 20:
            wait_for("RUNNING", variables, job, checkout)
        ask(variables, "scancel", "--signal=USR1", "--batch", job)
        wait_for("PENDING", variables, job, checkout)
        reached = saved_steps(checkout)
        assert 20 <= reached < LAST_STEP
        wait_for("COMPLETED", variables, job, checkout)
        assert "Restarts=1" in ask(variables, "scontrol", "show", "job", job)
    told = (checkout / f"slurm-{job}.out").read_text()
    stopped = re.search(r"asked to stop after step (\d+) of 299; the state is saved", told)
    assert stopped, told[-3000:]
    assert f"goes on at step {int(stopped[1]) + 1}" in told
    for out in ("weights/tcl.safetensors", "curves/tcl.csv"):
        assert (checkout / out).read_bytes() == (quiet / out).read_bytes(), out
    assert os.path.getsize(checkout / "dvc.lock") > 0
