"""Opening a trained TCL, ours or the authors'."""

from __future__ import annotations

import os
from pathlib import Path

from tcl.errors import TCLError
from tcl.inference.masks import TCLSegmenter
from tcl.inference.settings import InferenceSettings
from tcl.model.build import blank
from tcl.model.checkpoint import Checkpoint, is_safetensors, load_clip, read_tcl
from tcl.model.clip import Clip
from tcl.model.official import TOWERS, missing_towers, read_official, translate, with_towers


def load(path: str | Path, *, clip: str | Path | None = None) -> TCLSegmenter:
    """The model in a checkpoint file, in eval mode, float32, on the CPU.

    path: a file of ours (safetensors with its sizes), or one in the authors' layout, whose sizes are read off its
    weights and which gets the paper's inference settings. What a file is, its content says, not its name. clip: the
    CLIP to take the towers from if an official file comes without them: one of ours, or OpenAI's ViT-B-16.pt; if it is
    not given, the first of `cached_clips` that is there. Executes nothing that a checkpoint contains; raises TCLError
    if it is no TCL checkpoint, or lists all keys that it lacks, foreign ones and wrong shapes.
    """
    path = Path(path)
    if not path.is_file():
        raise TCLError(f"{path}: there is no such checkpoint file.")
    if is_safetensors(path):
        return from_checkpoint(read_tcl(path), source=str(path))
    saved, source = read_official(path), str(path)
    if lacking := missing_towers(saved):
        file = Path(clip) if clip is not None else _cached_clip(path, lacking)
        saved, source = with_towers(saved, open_clip_file(file), source=str(file)), f"{path} on the CLIP of {file}"
    return from_checkpoint(translate(saved, source=source), source=source)


def from_checkpoint(checkpoint: Checkpoint, *, source: str) -> TCLSegmenter:
    """The model of a checkpoint in memory, in eval mode; source: named in errors."""
    model = blank(checkpoint.sizes, TCLSegmenter)
    model.load_state_dict(checkpoint.weights)
    if checkpoint.inference is not None:
        model.settings = InferenceSettings.from_dict(checkpoint.inference, source=source)
    return model.eval()


def open_clip_file(file: Path) -> Clip:
    """The CLIP in a file of ours or in OpenAI's own, float32, in eval mode; raises TCLError if it is neither."""
    if not file.is_file():
        raise TCLError(f"{file}: there is no such CLIP file.")
    if is_safetensors(file):
        return load_clip(file)
    from tcl.model.pretrained import openai_clip

    return openai_clip(file)


def cached_clips() -> list[Path]:
    """Where a CLIP may lie: made by the pipeline here, fetched by it into the data root, or by OpenAI's own code."""
    data = Path(os.environ.get("TCL_DATA") or "data")
    return [
        Path("weights/clip.safetensors"),
        data / "weights/clip.safetensors",
        data / "checkpoints/ViT-B-16.pt",
        Path.home() / ".cache/clip/ViT-B-16.pt",
    ]


def _cached_clip(path: Path, lacking: list[str]) -> Path:
    for file in cached_clips():
        if file.is_file():
            return file
    towers = " and ".join(TOWERS[tower] for tower in lacking)
    raise TCLError(
        f"{path}: the file comes without CLIP's {towers} tower, and no CLIP weights are there to take it from. Give "
        "the CLIP that it was trained on (--clip, in Python clip=), which is OpenAI's ViT-B-16.pt for the authors' "
        f"checkpoint, or put it at one of {', '.join(map(str, cached_clips()))}."
    )
