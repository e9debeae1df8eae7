"""Opening a trained TCL, ours or the authors'."""

from __future__ import annotations

from pathlib import Path

from tcl.inference.masks import TCLSegmenter
from tcl.inference.settings import InferenceSettings
from tcl.model.build import blank
from tcl.model.checkpoint import Checkpoint, assign, load_clip, read_tcl
from tcl.model.official import read_official


def load(path: str | Path, *, clip: str | Path | None = None) -> TCLSegmenter:
    """The model in a checkpoint file, in eval mode, float32, on the CPU.

    path: a file of ours (.safetensors), or one in the authors' layout, which gets the paper's inference settings.
    clip: our CLIP file to take the towers from if an official file comes without them. Executes nothing that a file
    contains; raises TCLError if it is no TCL checkpoint, lacks keys, has foreign ones or wrong shapes.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        checkpoint = read_tcl(path)
    else:
        checkpoint = read_official(path, clip_weights=load_clip(Path(clip)).state_dict() if clip else None)
    return from_checkpoint(checkpoint, source=str(path))


def from_checkpoint(checkpoint: Checkpoint, *, source: str) -> TCLSegmenter:
    """The model of a checkpoint in memory, in eval mode; source: named in errors."""
    model = blank(checkpoint.sizes, TCLSegmenter)
    assign(model, checkpoint.weights, source)
    if checkpoint.inference is not None:
        model.settings = InferenceSettings.from_dict(checkpoint.inference)
    return model.eval()
