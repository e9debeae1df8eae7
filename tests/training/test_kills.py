"""The stage itself, killed again and again: the weights are those of a training that nothing happened to."""

import random
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from .workplace import finish, make, ranks_of, saved_steps, start

LAST_STEP, KILLS = 999, 20


def kill(process: subprocess.Popen[str], chance: random.Random) -> list[psutil.Process]:
    """Kill -9 the whole tree, or one of the ranks; returns all processes there were."""
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    ranks = ranks_of(process)
    victims = [chance.choice(ranks)] if ranks and chance.random() < 0.5 else chance.sample(tree, len(tree))
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    return tree


@pytest.mark.slow
def test_twenty_kills_change_no_bit(tmp_path: Path) -> None:
    quiet = make(tmp_path / "quiet", last_step=LAST_STEP, decoder_only_steps=200)
    finish(quiet)
    killed = make(tmp_path / "killed", last_step=LAST_STEP, decoder_only_steps=200)
    chance = random.Random(0)
    for number in range(KILLS):
        before = saved_steps(killed)
        process = start(killed, TCL_WORKERS=str(number % 2))
        # One in four is killed anywhere, the start included, the others after some progress.
        deadline = time.monotonic() + (600 if number % 4 else chance.uniform(0, 12))
        while process.poll() is None and saved_steps(killed) < before + 10 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.5))
        assert process.poll() is None, process.communicate()[1][-3000:]
        tree = kill(process, chance)
        _, alive = psutil.wait_procs(tree, timeout=60)
        assert not alive, alive
        process.communicate()
        assert saved_steps(killed) >= before
    reached = saved_steps(killed)
    assert 10 * KILLS // 2 < reached < LAST_STEP
    assert f"goes on at step {reached}" in finish(killed)
    for out in ("weights/tcl.safetensors", "curves/tcl.csv", "snapshots/tcl/step-00000030.safetensors"):
        assert (killed / out).read_bytes() == (quiet / out).read_bytes(), out
    assert not list(killed.glob("runs/*"))
