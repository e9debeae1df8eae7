"""Learned weights kept along the way, to be scored later."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from tcl.errors import TCLError
from tcl.files import replacing


@dataclass(frozen=True)
class Snapshots:
    """The learned weights after every `every`-th step and after the last, one safetensors file each in `folder`."""

    folder: Path
    every: int

    def due(self, step: int, last_step: int) -> bool:
        return step == last_step or (step > 0 and step % self.every == 0)

    def save(self, weights: Mapping[str, Tensor], step: int) -> None:
        """Write the weights after `step`, atomically. Raises OSError if the disk does not take them."""
        from safetensors.torch import save

        tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
        with replacing(self.folder / f"step-{step:08d}.safetensors") as temporary:
            temporary.write_bytes(save(tensors))  # save_file would hide why it could not write

    def publish(self, folder: Path) -> None:
        """Copy all to `folder`, in place of what is there."""
        partial = folder.with_name(f".{folder.name}")
        for old in (partial, folder):
            shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(self.folder, partial)
        partial.rename(folder)


def snapshot_files(folder: Path) -> dict[int, Path]:
    """The snapshots in a folder by step, in order. Raises TCLError if there are none."""
    found = {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.safetensors")}
    if not found:
        raise TCLError(f"{folder}: there are no weights of a training here. `dvc repro` makes them.")
    return dict(sorted(found.items()))
