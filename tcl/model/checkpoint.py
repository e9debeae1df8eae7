"""Our checkpoint files: safetensors whose header says what model the weights belong to and how to use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tcl.errors import TCLError
from tcl.files import replacing
from tcl.model.build import TCLSizes
from tcl.model.clip import Clip, ClipSizes, build_clip, clip_sizes
from tcl.model.shapes import Shapes, clip_shapes, tcl_shapes
from tcl.model.tcl import TCL

TCL_FORMAT = "tcl-1"
CLIP_FORMAT = "clip-1"
HEADER = "tcl"
"""The one entry of a file's metadata: format, sizes and settings as JSON."""
SHOWN = 20
"""Problems of a file that an error lists."""


@dataclass(frozen=True)
class Checkpoint:
    """A TCL on file: its sizes, its weights by the names of `TCL.state_dict`, the inference settings it carries."""

    sizes: TCLSizes
    weights: dict[str, Tensor]
    inference: dict[str, Any] | None = None


def tcl_sizes(model: TCL) -> TCLSizes:
    """Read the sizes off a built TCL."""
    return TCLSizes(
        clip=clip_sizes(model.clip),
        frozen_blocks=len(model.trunk),
        decoder_levels=len(model.grounder.levels),
        ordinary_attention=model.grounder.ordinary_attention,
    )


def save_tcl(path: Path, model: TCL, *, inference: dict[str, Any]) -> None:
    """Write a TCL and its inference settings, atomically."""
    _write(path, model, {"format": TCL_FORMAT, "sizes": tcl_sizes(model).to_dict(), "inference": inference})


def save_clip(path: Path, clip: Clip, *, origin: Mapping[str, str] | None = None) -> None:
    """Write a CLIP, atomically; origin: what it was taken from, if it was not trained here."""
    header = {"format": CLIP_FORMAT, "sizes": clip_sizes(clip).to_dict()}
    _write(path, clip, {**header, "origin": origin} if origin else header)


def read_tcl(path: Path) -> Checkpoint:
    """Read one of our TCL checkpoints; raises TCLError if the file is not one, is damaged or does not fit its sizes."""
    header, weights = _read(path, TCL_FORMAT)
    try:
        sizes = TCLSizes(**{**header["sizes"], "clip": ClipSizes(**header["sizes"]["clip"])})
    except (TCLError, KeyError, TypeError) as error:
        raise TCLError(f"{path}: its header does not state a model's sizes ({error}).") from error
    check_weights(weights, tcl_shapes(sizes), str(path))
    return Checkpoint(sizes, weights, header.get("inference"))


def load_clip(path: Path, *, expected: ClipSizes | None = None) -> Clip:
    """The CLIP in one of our CLIP files, in eval mode.

    Raises TCLError if the file is not one, is damaged, or has other than the expected sizes.
    """
    header, weights = _read(path, CLIP_FORMAT)
    try:
        sizes = ClipSizes(**header["sizes"])
    except (TCLError, KeyError, TypeError) as error:
        raise TCLError(f"{path}: its header does not state a CLIP's sizes ({error}).") from error
    if expected is not None and sizes != expected:
        raise TCLError(
            f"{path}: holds a CLIP of {sizes}, but model.clip asks for {expected}. `dvc repro clip` makes it."
        )
    check_weights(weights, clip_shapes(sizes), str(path))
    clip = build_clip(sizes)
    clip.load_state_dict(weights)
    return clip.eval()


def is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors rather than a torch archive, by its first bytes; its name does not matter."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def check_weights(weights: Mapping[str, Tensor], expected: Shapes, source: str) -> None:
    """Raise TCLError that lists every missing or foreign key, wrong shape or type, and weight that is not finite."""
    problems = [f"missing: {key}" for key in expected if key not in weights]
    problems += [f"foreign: {key}" for key in weights if key not in expected]
    for key in expected.keys() & weights.keys():
        found = weights[key]
        if found.shape != expected[key]:
            problems.append(f"{key} has shape {tuple(found.shape)}, must have {expected[key]}")
        elif not found.is_floating_point():
            problems.append(f"{key} holds {found.dtype}, must hold floating-point numbers")
        elif not torch.isfinite(found).all():
            problems.append(f"{key} holds values that are not finite")
    if problems:
        listed = "\n  ".join(sorted(problems)[:SHOWN])
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise TCLError(f"{source}: the weights do not fit the model.\n  {listed}{more}")


def _write(path: Path, model: nn.Module, header: dict[str, Any]) -> None:
    from safetensors.torch import save

    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    # One entry: safetensors writes several in a random order, and equal models shall be equal files.
    content = save(tensors, metadata={HEADER: json.dumps(header)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)  # save_file would hide why it could not write


def _read(path: Path, form: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise TCLError(f"{path}: there is no such checkpoint file.")
    try:
        with safe_open(path, framework="pt") as file:
            header = _decoded((file.metadata() or {}).get(HEADER, "{}"))
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    except (SafetensorError, ValueError, OSError) as error:
        raise TCLError(f"{path}: not a readable safetensors file, or a truncated one ({error}).") from error
    if header.get("format") != form:
        raise TCLError(f"{path}: must be a {form} file; its format is {header.get('format', 'not stated')!r}.")
    return header, weights


def _decoded(text: str) -> dict[str, Any]:
    """The header in a file; empty if it is none of ours."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return header if isinstance(header, dict) else {}
