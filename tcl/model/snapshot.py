"""The learned part of a TCL on file: what training changes, without the frozen CLIP that it stands on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tcl.errors import TCLError
from tcl.files import replacing
from tcl.model.build import TCLSizes
from tcl.model.checkpoint import Checkpoint, check_weights
from tcl.model.clip import Clip, clip_sizes
from tcl.model.shapes import tcl_shapes


def save_snapshot(folder: Path, step: int, weights: Mapping[str, Tensor]) -> None:
    """Write the learned weights after `step`, atomically. Raises OSError if the disk does not take them."""
    from safetensors.torch import save

    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    with replacing(folder / f"step-{step:08d}.safetensors") as temporary:
        temporary.write_bytes(save(tensors))  # save_file would hide why it could not write


def snapshots(folder: Path) -> dict[int, Path]:
    """The snapshots in a folder by step, in order. Raises TCLError if there are none."""
    found = {int(path.stem.removeprefix("step-")): path for path in folder.glob("step-*.safetensors")}
    if not found:
        raise TCLError(f"{folder}: there are no weights kept of a training. The train stage makes them.")
    return dict(sorted(found.items()))


def read_snapshot(
    path: Path, clip: Clip, *, frozen_blocks: int, decoder_levels: int, ordinary_attention: bool = False
) -> Checkpoint:
    """The whole TCL of a snapshot and the CLIP that it was trained on; raises TCLError if they do not make one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        learned = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TCLError(f"{path}: not a readable safetensors file, or a truncated one ({error}).") from error
    frozen = {f"clip.{name}": weight for name, weight in clip.state_dict().items()}
    sizes = TCLSizes(clip_sizes(clip), frozen_blocks, decoder_levels, ordinary_attention)
    weights = {**frozen, **learned}
    check_weights(weights, tcl_shapes(sizes), str(path))
    return Checkpoint(sizes, weights)
