"""A real SLURM on this machine: two nodes on the loopback interface."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol")

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def what_is_missing() -> str:
    """Why SLURM cannot be run here, in words; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"needs {', '.join(missing)} (apt-get install slurm-wlm munge)" if missing else ""


@contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Start munge, the controller and two nodes; gives the variables by which SLURM's commands find them."""
    folder = Path(mkdtemp(prefix="tcl-slurm-"))
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    for name in ("state", "spool-node1", "spool-node2"):
        (folder / name).mkdir()
    port = 17000 + os.getpid() % 1000 * 3
    (folder / "slurm.conf").write_text(
        CONFIGURATION.format(host=socket.gethostname(), folder=folder, port=port, first=port + 1, last=port + 2)
    )
    places = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munged.seed"}
    variables = {"SLURM_CONF": str(folder / "slurm.conf")}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{name}={folder / file}" for name, file in places.items())],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in ("node1", "node2")),
    ]
    daemons = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "a") as out:
                daemons.append(subprocess.Popen(command, env=os.environ | variables, stdout=out, stderr=out))
            time.sleep(1)
        _wait_for_nodes(variables)
        yield variables
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)
        shutil.rmtree(folder)


def _wait_for_nodes(variables: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while ask(variables, "sinfo", "--noheader", "--format=%D %t").split() != ["2", "idle"]:
        assert time.monotonic() < deadline, "the nodes do not come up"
        time.sleep(0.5)


def ask(variables: dict[str, str], *command: str) -> str:
    """What one of SLURM's commands answers."""
    return subprocess.run(
        command, env=os.environ | variables, check=True, capture_output=True, text=True, timeout=60
    ).stdout
