"""How much arithmetic the model takes: floating-point operations (FLOPs), two a multiply-add.

Matrix products and convolutions are counted and nothing else; what is done a second time to save memory is not counted.
"""

from __future__ import annotations

from typing import NamedTuple

from tcl.model.build import TCLSizes
from tcl.model.clip import ClipSizes


class PairFlops(NamedTuple):
    """FLOPs of one image-text pair in one training step, forward and backward, by part."""

    trunk: float
    text_tower: float
    grounder: float
    losses: float
    masked_tower: float

    @property
    def total(self) -> float:
        return sum(self)


def blocks(layers: int, width: int, tokens: int) -> float:
    """Forward of transformer blocks on one sequence."""
    return layers * (24 * width**2 * tokens + 4 * width * tokens**2)


def class_token_block(width: int, tokens: int) -> float:
    """Forward of a transformer block that sees all tokens and computes the first one alone."""
    return 4 * width**2 * tokens + 20 * width**2 + 4 * width * tokens


def image_tower(sizes: ClipSizes, *, layers: int | None = None, share: float = 1.0) -> float:
    """Forward of CLIP's image tower, or of its first layers without the projection; share: of the patches, kept."""
    patches = (sizes.image_size // sizes.patch_size) ** 2
    embedding = 2 * patches * 3 * sizes.patch_size**2 * sizes.vision_width
    projection = 2 * sizes.vision_width * sizes.embed_dim if layers is None else 0
    depth = sizes.vision_layers if layers is None else layers
    return embedding + blocks(depth, sizes.vision_width, 1 + int(patches * share)) + projection


def masked_tower(sizes: ClipSizes) -> float:
    """Forward of CLIP's image tower as the image-level loss runs it."""
    tokens = 1 + (sizes.image_size // sizes.patch_size) ** 2
    trunk = image_tower(sizes, layers=sizes.vision_layers - 1)
    return trunk + class_token_block(sizes.vision_width, tokens) + 2 * sizes.vision_width * sizes.embed_dim


def text_tower(sizes: ClipSizes) -> float:
    """Forward of CLIP's text tower."""
    return blocks(sizes.text_layers, sizes.text_width, sizes.context_length) + 2 * sizes.text_width * sizes.embed_dim


def decoder(sizes: TCLSizes) -> float:
    """Forward of the grounder's decoder and projection. A level's first convolution has 4 taps a pixel, not 9.

    What a processor saves on top of that (`tcl.model.winograd`) is counted as done.
    """
    width = sizes.clip.vision_width
    cells = (sizes.clip.image_size // sizes.clip.patch_size) ** 2
    convolutions = sum(2 * (4 + 9) * width**2 * cells * 4**level for level in range(1, sizes.decoder_levels + 1))
    return convolutions + 2 * cells * 4**sizes.decoder_levels * width * sizes.clip.embed_dim


def copied_blocks(sizes: TCLSizes) -> float:
    """Forward of the grounder's copied blocks; in the last one each token attends to itself alone."""
    width, tokens = sizes.clip.vision_width, 1 + (sizes.clip.image_size // sizes.clip.patch_size) ** 2
    copied = sizes.clip.vision_layers - sizes.frozen_blocks
    return blocks(copied - 1, width, tokens) + 20 * width**2 * tokens if copied else 0.0


def tcl_step(sizes: TCLSizes, *, global_batch: int, decoder_only: bool) -> PairFlops:
    """A step of TCL's training, a pair. Backward costs as much as forward for inputs, and again for weights."""
    clip = sizes.clip
    cells = (clip.image_size // clip.patch_size) ** 2 * 4**sizes.decoder_levels
    return PairFlops(
        trunk=image_tower(clip, layers=sizes.frozen_blocks),
        text_tower=text_tower(clip),
        grounder=3 * decoder(sizes) + (1 if decoder_only else 3) * copied_blocks(sizes),
        losses=5 * 2 * global_batch * cells * clip.embed_dim,  # similarity: V alone has a gradient; pooling: V and M
        masked_tower=2 * masked_tower(clip),  # its weights are frozen
    )


def clip_step(sizes: ClipSizes, *, share: float = 1.0) -> float:
    """A step of training all of a CLIP, a pair, on a share of each image's patches."""
    return 3 * (image_tower(sizes, share=share) + text_tower(sizes))
