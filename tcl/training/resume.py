"""Unfinished training: rolling checkpoints in a directory keyed by what is being trained.

The directory lies outside DVC's outs, which are deleted before a stage runs. Its name holds a fingerprint of the
configuration and the data, so another configuration or another data set never finds it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tcl.errors import TCLError
from tcl.files import replacing, write_json


def fingerprint(subject: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any value of `subject` (JSON-serialisable)."""
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class ResumeDirectory:
    """Where one training keeps its state until it has finished."""

    path: Path

    @property
    def state_file(self) -> Path:
        return self.path / "state.pt"

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state, atomically."""
        with replacing(self.state_file) as temporary:
            torch.save(state, temporary)

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None if there is none yet. Raises TCLError if it is damaged."""
        if not self.state_file.exists():
            return None
        try:
            return torch.load(self.state_file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many types for a damaged file
            raise TCLError(
                f"{self.state_file}: the saved training state cannot be read ({error}). Delete it to start again."
            ) from error

    def discard(self) -> None:
        """Remove the state of a training that has finished."""
        shutil.rmtree(self.path)


@contextmanager
def resume_directory(root: Path, name: str, subject: dict[str, Any], *, first: bool) -> Iterator[ResumeDirectory]:
    """The directory of this training; the first rank holds an exclusive lock on it.

    Raises TCLError if another process is training the same thing.
    """
    directory = ResumeDirectory(root / f"{name}-{fingerprint(subject)}")
    if not first:
        yield directory
        return
    directory.path.mkdir(parents=True, exist_ok=True)
    write_json(directory.path / "subject.json", subject)
    with open(directory.path / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TCLError(
                f"{directory.path}: another process is at this very training. Wait for it, or end it."
            ) from error
        yield directory
