"""Learned weights kept along the way, to be scored later."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tcl.model.snapshot import save_snapshot


@dataclass(frozen=True)
class Snapshots:
    """The learned weights after every `every`-th step and after the last, one file each in `folder`."""

    folder: Path
    every: int

    def keep(self, weights: Mapping[str, Tensor], step: int, last_step: int) -> None:
        """Write the weights after `step` if it is one of those. Raises OSError if the disk does not take them."""
        if step == last_step or (step > 0 and step % self.every == 0):
            save_snapshot(self.folder, step, weights)

    def publish(self, folder: Path) -> None:
        """Copy all to `folder`, in place of what is there."""
        partial = folder.with_name(f".{folder.name}")
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(self.folder, partial)
        partial.rename(folder)
