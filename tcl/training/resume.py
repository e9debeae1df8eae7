"""Unfinished training: rolling checkpoints in a directory keyed by what is being trained.

The directory lies outside DVC's outs, which are deleted before a stage runs. Its name holds a fingerprint of the
configuration and the data, so another configuration or another data set never goes on from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tcl.errors import TCLError
from tcl.files import replacing, write_json, write_text

KEPT = 2
"""Checkpoints that are kept; the older one serves if the newer is damaged."""


RUN_ID = "run-id"


def fingerprint(subject: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that change with any value of `subject` (JSON-serialisable)."""
    return hashlib.sha256(json.dumps(subject, sort_keys=True).encode()).hexdigest()[:12]


def differences(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """In which keys two subjects differ, in words."""
    there, here = _flat(theirs), _flat(ours)
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return "; ".join(f"{key} is {there.get(key)!r} there and {here.get(key)!r} here" for key in keys)


@dataclass(frozen=True)
class ResumeDirectory:
    """Where one training keeps its state until it has finished. subject: all that the training depends on."""

    path: Path
    subject: dict[str, Any]

    @property
    def checkpoints(self) -> list[Path]:
        """The saved states, the newest first."""
        return sorted(self.path.glob("state-*.pt"), reverse=True)

    def save(self, state: dict[str, Any], steps: int) -> None:
        """Write the state after so many steps, atomically and durably, and drop all but the newest `KEPT`.

        Raises OSError if the disk does not take it; what was saved before is still there then.
        """
        with replacing(self.path / f"state-{steps:08d}.pt") as temporary, open(temporary, "wb") as file:
            try:
                torch.save({**state, "subject": self.subject}, file)
            except RuntimeError as error:  # torch hides why it could not write
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())
        for old in self.checkpoints[KEPT:]:
            old.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest state that can be read, or None if there is none yet.

        Raises TCLError if all are damaged, or if it belongs to a training with another configuration or other data.
        """
        for path in self.checkpoints:
            try:
                state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch.load raises many types for a damaged file
                print(f"{path}: cannot be read ({error}); an older state is looked for.", file=sys.stderr)
                continue
            self._check(path, state["subject"])
            return state
        if self.checkpoints:
            raise TCLError(f"{self.path}: none of the saved states can be read. Delete the directory to start again.")
        return None

    @property
    def run_id(self) -> str | None:
        """The tracking run that `remember_run` was told of, to go on with."""
        file = self.path / RUN_ID
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def remember_run(self, run_id: str | None) -> None:
        """Keep the id of the tracking run of this training, once there is one."""
        if run_id and run_id != self.run_id:
            write_text(self.path / RUN_ID, run_id)

    def discard(self) -> None:
        """Remove the state of a training that has finished."""
        shutil.rmtree(self.path)

    def _check(self, path: Path, subject: dict[str, Any]) -> None:
        if subject != self.subject:
            raise TCLError(
                f"{path}: holds training {fingerprint(subject)}, this is training {fingerprint(self.subject)}: "
                f"{differences(subject, self.subject)}. Move the file away, or go back to that configuration and data."
            )


@contextmanager
def resume_directory(root: Path, name: str, subject: dict[str, Any], *, first: bool) -> Iterator[ResumeDirectory]:
    """The directory of this training; the first rank holds an exclusive lock on it.

    If there is unfinished training under the same name that differs in its subject, the first rank says so: it is
    neither continued nor removed. Raises TCLError if another process is training the same thing.
    """
    directory = ResumeDirectory(root / f"{name}-{fingerprint(subject)}", json.loads(json.dumps(subject)))
    if not first:
        yield directory
        return
    directory.path.mkdir(parents=True, exist_ok=True)
    with open(directory.path / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TCLError(
                f"{directory.path}: another process is at this very training. Wait for it, or end it."
            ) from error
        for partial in directory.path.glob(".*"):  # of a process that was killed while it wrote
            partial.unlink()
        write_json(directory.path / "subject.json", directory.subject)
        if not directory.checkpoints:
            _tell_of_others(root, name, directory)
        yield directory


def _tell_of_others(root: Path, name: str, ours: ResumeDirectory) -> None:
    """Say which unfinished trainings of this name are not continued, and why."""
    for path in sorted(root.glob(f"{name}-*")):
        other = ResumeDirectory(path, {})
        if path == ours.path or not other.checkpoints or not (path / "subject.json").is_file():
            continue
        theirs = json.loads((path / "subject.json").read_text(encoding="utf-8"))
        print(
            f"{path}: an unfinished training ({other.checkpoints[0].name}) that is not continued, because "
            f"{differences(theirs, ours.subject)}. This one ({ours.path.name}) begins at step 0. "
            "Delete the directory if you do not mean to go back.",
            file=sys.stderr,
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
