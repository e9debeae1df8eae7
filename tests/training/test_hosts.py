"""Two hosts, each a network namespace of its own, on which docs/training.md is followed word for word."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.pipeline.checkout import clone

from .workplace import ROOT, environment, finish, make, saved_steps

NAMESPACES = ("tcl-one", "tcl-two")
NAMES = ("node1", "node2")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
LAST_STEP = 199

needs = pytest.mark.skipif(
    shutil.which("ip") is None or os.geteuid() != 0, reason="needs root and `ip` (apt-get install iproute2)"
)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two hosts that know each other by name, with a cable between them."""
    for namespace in NAMESPACES:
        subprocess.run(["ip", "netns", "delete", namespace], check=False, stderr=subprocess.DEVNULL)
        ip("netns", "add", namespace)
        names = Path("/etc/netns", namespace, "hosts")  # what `ip netns exec` shows as /etc/hosts
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("127.0.0.1 localhost\n10.77.0.1 node1\n10.77.0.2 node2\n")
    ip("-n", NAMESPACES[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", NAMESPACES[1])
    for namespace, address in zip(NAMESPACES, ADDRESSES, strict=True):
        ip("-n", namespace, "address", "add", f"{address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", namespace, "link", "set", device, "up")
    yield
    for namespace in NAMESPACES:
        ip("netns", "delete", namespace)
        shutil.rmtree(Path("/etc/netns", namespace))


def documented(name: str) -> str:
    """The commands that docs/training.md has for one of several machines; of the pipeline only the training is run."""
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = (block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "--rdzv-endpoint" in block)
    lines = [line for line in block.splitlines() if not line.startswith(".")]  # the tests' environment is active
    lines = [line for line in lines if "#" not in line or line.endswith(f"# on {name}")]
    return "\n".join(lines).replace("dvc repro", "dvc repro --single-item")


def start_on(number: int, folder: Path) -> subprocess.Popen[str]:
    """The training on one of the two hosts, with one process."""
    command = f"hostname {NAMES[number]}\n{documented(NAMES[number])}"
    return subprocess.Popen(
        ["ip", "netns", "exec", NAMESPACES[number], "unshare", "--uts", "bash", "-ec", command],
        cwd=folder,
        env=environment(folder, TCL_PROCESSES="1", TCL_TIMEOUT="20", PYTHONPATH=str(folder)),
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_host(process: subprocess.Popen[str]) -> None:
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        each.send_signal(signal.SIGKILL)


@needs
@pytest.mark.slow
@pytest.mark.parametrize("lost", ["killed", "unplugged", "first killed"])
def test_a_host_is_lost_and_the_other_goes_on_alone(lost: str, hosts: None, tmp_path: Path) -> None:
    quiet = make(tmp_path / "quiet", last_step=LAST_STEP)
    finish(quiet)
    shared = make(clone(tmp_path / "shared"), last_step=LAST_STEP)
    processes = [start_on(number, shared) for number in range(2)]
    while saved_steps(shared) < 20:
        assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
        time.sleep(0.05)
    survivor, victim = processes[::-1] if lost == "first killed" else processes
    if lost == "unplugged":
        ip("-n", NAMESPACES[1], "link", "set", "cable", "down")
    else:
        kill_host(victim)
    _, told = survivor.communicate(timeout=120)
    assert survivor.returncode != 0
    assert "does not answer" in told or "no step has finished" in told, told[-3000:]
    if lost == "unplugged":  # its ranks have ended by now; torchrun itself is slower to give up
        kill_host(victim)
        victim.communicate()
    told = finish(shared)  # two processes on one host
    assert "goes on at step" in told
    for out in ("weights/tcl.safetensors", "curves/tcl.csv"):
        assert (shared / out).read_bytes() == (quiet / out).read_bytes(), out
