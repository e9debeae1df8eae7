"""The page, served by `tcl web` in a process of its own, and a real browser."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from tcl.world.scene import render

ROOT = Path(__file__).parents[2]


class Served(NamedTuple):
    """A running page: its address, its process, the folder it was started in."""

    url: str
    process: "subprocess.Popen[str]"
    folder: Path


@pytest.fixture(scope="package")
def page(demo_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`tcl web` with the demo's checkpoint, on loopback."""
    pytest.importorskip("gradio", reason="Gradio is missing: pip install -e '.[web]'")
    folder = tmp_path_factory.mktemp("web")
    (folder / "secret.txt").write_text("not for visitors")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "tcl.commands.main",
        "web",
        "--port",
        str(port),
        "--checkpoint",
        str(demo_checkpoint),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, text=True)
    for _ in range(240):
        if "Open http" in (folder / "log.txt").read_text() or process.poll() is not None:
            break
        time.sleep(0.5)
    assert "Open http" in (folder / "log.txt").read_text(), (folder / "log.txt").read_text()
    yield Served(f"http://127.0.0.1:{port}", process, folder)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert not list(folder.glob("tcl-web-*"))


@pytest.fixture(scope="package")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the demo world: a person before a wall."""
    path = tmp_path_factory.mktemp("pictures") / "street.png"
    Image.fromarray(render(np.random.default_rng(0), height=180, width=240).image).save(path)
    return path
