"""Functions run on several gloo processes, forked from this one."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.multiprocessing.spawn import start_processes

from tcl.model.ranks import Ranks, joined_ranks

Work = Callable[[Ranks], Any]

GRACE = 30
"""Seconds in which the other ranks may end by themselves once one has failed."""


def on_ranks(count: int, work: Work) -> list[Any]:
    """What `work` returns on each of so many ranks; one runs in this process. Raises if a rank fails."""
    if count == 1:
        return [work(Ranks())]
    with TemporaryDirectory() as folder:
        ranks = start_processes(
            _rank, (count, _free_port(), Path(folder), work), nprocs=count, join=False, start_method="fork"
        )
        while not ranks.join(grace_period=GRACE):
            pass
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _rank(rank: int, count: int, port: int, folder: Path, work: Work) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    with joined_ranks(timeout=60) as ranks:
        torch.save(work(ranks), folder / f"{rank}.pt")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
