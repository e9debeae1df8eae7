"""The authors' checkpoint layout: read without executing anything that a file contains, and written for their code.

It is a `torch.save` of a dict whose entry `model` holds the weights. Everything about the model is read off these: of
the grounder's copied blocks the file keeps the index in CLIP, so the first one tells how many stay frozen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import isqrt
from pathlib import Path
from statistics import mode

import torch
from torch import Tensor

from tcl.errors import TCLError
from tcl.files import replacing
from tcl.model.build import TCLSizes
from tcl.model.checkpoint import Checkpoint, check_weights, tcl_sizes
from tcl.model.clip import Clip, ClipSizes, clip_sizes
from tcl.model.shapes import tcl_shapes
from tcl.model.tcl import TCL
from tcl.model.torch_archive import read_weights

TEXT, IMAGE = "clip_text_encoder.", "clip_image_encoder."
TOWERS = {TEXT: "text", IMAGE: "image"}
IMAGE_BLOCKS, TEXT_BLOCKS = IMAGE + "clip_visual.transformer.resblocks.", TEXT + "transformer.resblocks."
COPIED_BLOCKS = "masker.image_encoder.backbone.transformer.resblocks."
LEVELS = "masker.image_encoder.decoder.decoder.net."
PROJECTION = "masker.image_encoder.decoder.image_proj."
HEAD_WIDTH = 64
"""Channels of an attention head in all of OpenAI's CLIPs; the layout does not state the number of heads."""

# Where a size shows: keys, and which dimension of their shape it is.
TOLD_BY = {
    "embed_dim": ((IMAGE + "clip_proj.proj", 1), (TEXT + "text_projection", 1), (PROJECTION + "proj", 1)),
    "patch_size": ((IMAGE + "clip_visual.conv1.weight", 2), (IMAGE + "clip_visual.conv1.weight", 3)),
    "positions": ((IMAGE + "clip_visual.positional_embedding", 0),),
    "vision_width": ((IMAGE + "clip_visual.ln_pre.bias", 0), (PROJECTION + "proj", 0), (PROJECTION + "ln.bias", 0)),
    "context_length": ((TEXT + "positional_embedding", 0),),
    "vocab_size": ((TEXT + "token_embedding.weight", 0),),
    "text_width": ((TEXT + "positional_embedding", 1), (TEXT + "text_projection", 0), (TEXT + "ln_final.bias", 0)),
}

# (ours, official): the beginnings of keys; the first one that fits counts.
PREFIXES = (
    ("clip.visual.ln_post.", IMAGE + "clip_proj.ln."),
    ("clip.visual.proj", IMAGE + "clip_proj.proj"),
    ("clip.visual.", IMAGE + "clip_visual."),
    ("clip.", TEXT),
    ("grounder.projection", PROJECTION + "proj"),
    ("grounder.norm.", PROJECTION + "ln."),
    ("mask_scale", "masker.sim2mask.w"),
    ("mask_bias", "masker.sim2mask.b"),
    ("tcli_log_scale", "tcli_loss.logit_scale"),
    ("tclf_log_scale", "tclf_loss.logit_scale"),
)
CLIP_TEMPERATURE = "clip.logit_scale"
"""CLIP's own temperature: TCL has no use for it, and the layout no key."""


def official_name(key: str, *, frozen_blocks: int) -> str:
    """The official name of one of our keys."""
    if match := re.fullmatch(r"grounder\.blocks\.(\d+)\.(.+)", key):
        return f"{COPIED_BLOCKS}{int(match[1]) + frozen_blocks}.{match[2]}"
    if match := re.fullmatch(r"grounder\.levels\.(\d+)\.(first|second)\.(.+)", key):
        branch = {"first": "conv", "second": "conv2"}[match[2]]
        return f"{LEVELS}{match[1]}.{branch}.{'gate.gate' if match[3] == 'gate' else match[3]}"
    ours, official = next(pair for pair in PREFIXES if key.startswith(pair[0]))
    return official + key.removeprefix(ours)


def read_official(path: Path) -> dict[str, Tensor]:
    """The weights of an official file by their official names; `pamr.*`, which an evaluation leaves there, is dropped.

    Raises TCLError if the file cannot be read or is no TCL checkpoint.
    """
    saved = read_weights(path, entry="model")
    if not any(key.startswith("masker.") for key in saved):
        raise TCLError(f"{path}: no TCL checkpoint: none of its {len(saved)} keys begins with 'masker.'.")
    return {key: tensor for key, tensor in saved.items() if not key.startswith("pamr.")}


def missing_towers(saved: Iterable[str]) -> list[str]:
    """The prefixes of those CLIP towers of which an official file holds nothing."""
    keys = list(saved)
    return [tower for tower in TOWERS if not any(key.startswith(tower) for key in keys)]


def with_towers(saved: dict[str, Tensor], clip: Clip, *, source: str) -> dict[str, Tensor]:
    """The weights with the towers that they lack taken from a CLIP; source: the CLIP's file, named in errors."""
    _check_layout(clip_sizes(clip), source)
    lacking = tuple(missing_towers(saved))
    state = {f"clip.{key}": tensor for key, tensor in clip.state_dict().items() if f"clip.{key}" != CLIP_TEMPERATURE}
    names = {official_name(key, frozen_blocks=0): tensor for key, tensor in state.items()}
    return saved | {name: tensor for name, tensor in names.items() if name.startswith(lacking)}


def translate(saved: Mapping[str, Tensor], *, source: str) -> Checkpoint:
    """A checkpoint by our keys from weights by their official names, towers included; source: named in errors.

    Missing temperatures of the losses keep their initial value. Raises TCLError that lists all missing or foreign keys,
    wrong shapes and values that are not finite.
    """
    try:
        sizes = _sizes(saved)
    except TCLError as error:
        raise TCLError(f"{source}: {error}") from error
    shapes = tcl_shapes(sizes)
    names = _official_names(shapes, sizes)
    initial = torch.tensor(1 / 0.07).log()
    complete = {names[key]: initial.clone() for key in ("tcli_log_scale", "tclf_log_scale")} | dict(saved)
    check_weights(complete, {name: shapes[key] for key, name in names.items()}, source)
    weights = {key: complete[name] for key, name in names.items()}
    return Checkpoint(sizes, {**weights, CLIP_TEMPERATURE: initial})


def save_official(path: Path, model: TCL, *, source: str) -> None:
    """Write a TCL in the official layout, atomically; source: named in errors.

    The file holds what the official code needs to evaluate it, no state of an optimiser. Raises TCLError if the layout
    cannot hold the model.
    """
    sizes = tcl_sizes(model)
    _check_layout(sizes.clip, source)
    if sizes.ordinary_attention:
        raise TCLError(f"{source}: the official layout is for identity attention in the grounder, not ordinary.")
    state = model.state_dict()
    saved = {name: state[key].detach().cpu().contiguous() for key, name in _official_names(state, sizes).items()}
    with replacing(path) as temporary:
        torch.save({"model": saved}, temporary)


def _official_names(keys: Iterable[str], sizes: TCLSizes) -> dict[str, str]:
    """Our keys of a whole model, each with its official name."""
    return {key: official_name(key, frozen_blocks=sizes.frozen_blocks) for key in keys if key != CLIP_TEMPERATURE}


def _check_layout(sizes: ClipSizes, source: str) -> None:
    """Raise TCLError if the layout, which states neither heads nor activation, cannot stand for this CLIP."""
    if not sizes.quick_gelu:
        raise TCLError(f"{source}: the official layout is for QuickGELU, as in OpenAI's CLIPs; this CLIP has GELU.")
    for width, heads in ((sizes.vision_width, sizes.vision_heads), (sizes.text_width, sizes.text_heads)):
        if heads != width // HEAD_WIDTH:
            raise TCLError(
                f"{source}: the official layout is for one attention head every {HEAD_WIDTH} channels; this CLIP has "
                f"{heads} for {width}."
            )


def _sizes(saved: Mapping[str, Tensor]) -> TCLSizes:
    """Sizes by the shapes of the weights: of the keys that depend on one, the most common answer.

    No copied block means that all of CLIP's blocks are frozen. A size that nothing tells is the paper's; the key that
    would have told it will be found missing.
    """
    clip = asdict(ClipSizes())
    told = {name: [saved[key].shape[i] for key, i in places if _has(saved, key, i)] for name, places in TOLD_BY.items()}
    clip |= {name: mode(values) for name, values in told.items() if values and name != "positions"}
    if told["positions"]:
        clip["image_size"] = isqrt(max(mode(told["positions"]) - 1, 1)) * clip["patch_size"]
    layers = len(_indices(saved, IMAGE_BLOCKS))
    clip |= {"vision_layers": layers, "text_layers": len(_indices(saved, TEXT_BLOCKS))}
    clip |= {"vision_heads": clip["vision_width"] // HEAD_WIDTH, "text_heads": clip["text_width"] // HEAD_WIDTH}
    copied, levels = _indices(saved, COPIED_BLOCKS), _indices(saved, LEVELS)
    return TCLSizes(ClipSizes(**clip), frozen_blocks=min(copied, default=layers), decoder_levels=len(levels))


def _has(saved: Mapping[str, Tensor], key: str, dimension: int) -> bool:
    return key in saved and saved[key].dim() > dimension


def _indices(keys: Iterable[str], prefix: str) -> set[int]:
    """The numbers that follow `prefix` in keys."""
    return {int(match[1]) for key in keys if (match := re.match(re.escape(prefix) + r"(\d{1,6})\.", key))}
