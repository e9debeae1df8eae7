"""Names and shapes of a model's weights by its sizes alone: what a file must hold, before any memory is spent on it."""

from __future__ import annotations

from tcl.model.build import TCLSizes
from tcl.model.clip import ClipSizes

Shapes = dict[str, tuple[int, ...]]
"""Shapes of weights by their names in `state_dict`."""


def clip_shapes(sizes: ClipSizes) -> Shapes:
    """The weights of an open_clip CLIP."""
    vision, text = sizes.vision_width, sizes.text_width
    patches = (sizes.image_size // sizes.patch_size) ** 2
    image_tower = {
        "class_embedding": (vision,),
        "positional_embedding": (1 + patches, vision),
        "proj": (vision, sizes.embed_dim),
        "conv1.weight": (vision, 3, sizes.patch_size, sizes.patch_size),
        **_norm("ln_pre", vision),
        **_norm("ln_post", vision),
        **_under("transformer.resblocks", _blocks(sizes.vision_layers, vision)),
    }
    return {
        "logit_scale": (),
        "positional_embedding": (sizes.context_length, text),
        "text_projection": (text, sizes.embed_dim),
        "token_embedding.weight": (sizes.vocab_size, text),
        **_norm("ln_final", text),
        **_under("transformer.resblocks", _blocks(sizes.text_layers, text)),
        **_under("visual", image_tower),
    }


def tcl_shapes(sizes: TCLSizes) -> Shapes:
    """The weights of a `TCL`."""
    width = sizes.clip.vision_width
    grounder = {
        "projection": (width, sizes.clip.embed_dim),
        **_norm("norm", width),
        **_under("blocks", _blocks(sizes.clip.vision_layers - sizes.frozen_blocks, width)),
    }
    for level in range(sizes.decoder_levels):
        for part in ("first", "second"):
            convolution = {"gate": (), **_norm("norm", width), **_linear("conv", width, width, 3, 3)}
            grounder |= _under(f"levels.{level}.{part}", convolution)
    scalars = dict.fromkeys(("mask_scale", "mask_bias", "tcli_log_scale", "tclf_log_scale"), ())
    return {**scalars, **_under("clip", clip_shapes(sizes.clip)), **_under("grounder", grounder)}


def _blocks(count: int, width: int) -> Shapes:
    """Residual attention blocks, by their index."""
    block = {
        **_norm("ln_1", width),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        **_linear("attn.out_proj", width, width),
        **_norm("ln_2", width),
        **_linear("mlp.c_fc", 4 * width, width),
        **_linear("mlp.c_proj", width, 4 * width),
    }
    return {f"{index}.{name}": shape for index in range(count) for name, shape in block.items()}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, outputs: int, *inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, *inputs), f"{name}.bias": (outputs,)}


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}
