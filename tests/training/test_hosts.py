"""Two hosts, each a network namespace of its own, joined by torchrun's c10d rendezvous."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .workplace import STAGE, environment, finish, make, saved_steps

HOSTS = ("tcl-one", "tcl-two")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
LAST_STEP = 199

needs = pytest.mark.skipif(
    shutil.which("ip") is None or os.geteuid() != 0, reason="needs root and `ip` (apt-get install iproute2)"
)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@pytest.fixture
def hosts() -> Iterator[None]:
    """Two hosts with a cable between them."""
    for host in HOSTS:
        subprocess.run(["ip", "netns", "delete", host], check=False, stderr=subprocess.DEVNULL)
        ip("netns", "add", host)
    ip("-n", HOSTS[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", HOSTS[1])
    for host, address in zip(HOSTS, ADDRESSES, strict=True):
        ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            ip("-n", host, "link", "set", device, "up")
    yield
    for host in HOSTS:
        ip("netns", "delete", host)


def start_on(number: int, folder: Path) -> subprocess.Popen[str]:
    """The stage on one of the two hosts, with one process."""
    rendezvous = f"--rdzv-backend=c10d --rdzv-id=tcl --rdzv-endpoint={ADDRESSES[0]}:29500"
    variables = {
        "TCL_PROCESSES": "1",
        "TCL_TIMEOUT": "20",
        "TCL_TORCHRUN": f"--nnodes=2 {rendezvous} --local-addr={ADDRESSES[number]} "
        f"--rdzv-conf=is_host={1 - number}",  # the namespaces share a host name, by which torchrun would tell
        "GLOO_SOCKET_IFNAME": "cable",
    }
    command = ["ip", "netns", "exec", HOSTS[number], *STAGE]
    return subprocess.Popen(
        command, cwd=folder, env=environment(folder, **variables), stderr=subprocess.PIPE, text=True
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
    shared = make(tmp_path / "shared", last_step=LAST_STEP)
    processes = [start_on(number, shared) for number in range(2)]
    while saved_steps(shared) < 20:
        assert all(process.poll() is None for process in processes), [p.communicate()[1] for p in processes]
        time.sleep(0.05)
    survivor, victim = processes[::-1] if lost == "first killed" else processes
    if lost == "unplugged":
        ip("-n", HOSTS[1], "link", "set", "cable", "down")
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
