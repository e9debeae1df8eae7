"""CLIP's two towers, built by open_clip, and what TCL asks of them beyond open_clip's own forward.

The towers stay open_clip modules; dense features, identity attention and resized positions are functions over
their blocks. All of CLIP's LayerNorms have eps 1e-5; its activation is QuickGELU in OpenAI's weights, GELU in others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl.errors import TCLError
from tcl.mends import import_open_clip
from tcl.model.recompute import recomputed, recomputed_if_large

# open_clip ships no types; these names say which of its modules is meant.
Clip: TypeAlias = Any
ImageTower: TypeAlias = Any
Block: TypeAlias = Any


LIMITS = {"vision_layers": 256, "text_layers": 256, "context_length": 4096}
LIMIT = 1 << 20
"""The largest sizes that are believed of a file; what costs memory or time without weights to show for it, less."""

ROWS = 64
"""Tokens whose activation a processor takes at once: few enough for its cache."""


@dataclass(frozen=True)
class ClipSizes:
    """Everything that determines a CLIP but its weights; the defaults are OpenAI's ViT-B/16.

    quick_gelu: whether the activation is QuickGELU, x * sigmoid(1.702 x), as in OpenAI's weights, or GELU. Raises
    TCLError that lists the sizes that no CLIP can have.
    """

    embed_dim: int = 512
    image_size: int = 224
    patch_size: int = 16
    vision_width: int = 768
    vision_layers: int = 12
    vision_heads: int = 12
    context_length: int = 77
    vocab_size: int = 49408
    text_width: int = 512
    text_layers: int = 12
    text_heads: int = 8
    quick_gelu: bool = True

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value!r}, must be a whole number from 1 to {LIMITS.get(name, LIMIT)}"
            for name, value in asdict(self).items()
            if name != "quick_gelu" and (type(value) is not int or not 1 <= value <= LIMITS.get(name, LIMIT))
        ]
        if type(self.quick_gelu) is not bool:
            problems.append(f"quick_gelu is {self.quick_gelu!r}, must be true or false")
        for whole, part in (
            ("image_size", "patch_size"),
            ("vision_width", "vision_heads"),
            ("text_width", "text_heads"),
        ):
            if not problems and getattr(self, whole) % getattr(self, part):
                problems.append(f"{whole} {getattr(self, whole)} is no multiple of {part} {getattr(self, part)}")
        if problems:
            raise TCLError(f"sizes of a CLIP: {'; '.join(problems)}.")

    def to_dict(self) -> dict[str, Any]:
        """As files state it: QuickGELU is not mentioned, for it was the only activation once."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("quick_gelu", True)}


def build_clip(sizes: ClipSizes) -> Clip:
    """An open_clip `CLIP` of these sizes with freshly drawn weights."""
    import_open_clip()
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
        width=sizes.vision_width,
        layers=sizes.vision_layers,
        head_width=sizes.vision_width // sizes.vision_heads,
    )
    text = CLIPTextCfg(
        context_length=sizes.context_length,
        vocab_size=sizes.vocab_size,
        width=sizes.text_width,
        heads=sizes.text_heads,
        layers=sizes.text_layers,
    )
    return CLIP(embed_dim=sizes.embed_dim, vision_cfg=vision, text_cfg=text, quick_gelu=sizes.quick_gelu)


def resize_positions(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embedding [1 + side*side, C] for a grid of gh x gw patches: [1 + gh*gw, C].

    The class token's row is kept; the others are resized bicubically (align_corners False) unless the grid is the
    square one of training, also when a non-square grid has as many patches.
    """
    side = round((positions.shape[0] - 1) ** 0.5)
    if not torch.compiler.is_exporting() and grid == (side, side):
        return positions
    if torch.compiler.is_compiling() or torch.compiler.is_exporting():
        patches = positions[1:].T.reshape(1, -1, side, side)
        resized = F.interpolate(patches, size=grid, mode="bicubic", align_corners=False)
        return torch.cat([positions[:1], resized.flatten(2)[0].T])
    dtype = torch.promote_types(positions.dtype, torch.float32)
    rows, columns = (_bicubic(side, length, dtype, positions.device) for length in grid)
    with torch.autocast(positions.device.type, enabled=False):
        higher = (rows @ positions[1:].to(dtype).reshape(side, -1)).view(grid[0], side, -1)
        resized = (columns @ higher).flatten(0, 1)
    return torch.cat([positions[:1], resized.to(positions.dtype)])


@lru_cache(maxsize=256)
def _bicubic(side: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What each of `side` values counts in each of the `length` ones that they are resized to: [length, side].

    Bicubic interpolation is linear, and the same along both axes: two small products take the place of a slow kernel.
    """
    with torch.inference_mode(False), torch.no_grad():
        values = torch.eye(side, dtype=dtype).view(1, side, side, 1)
        resized = F.interpolate(values, size=(length, 1), mode="bicubic", align_corners=False)
        return resized[0, :, :, 0].T.contiguous().to(device)


def embed_patches(visual: ImageTower, images: Tensor) -> Tensor:
    """Tokens that enter the first block (after `ln_pre`), class token first: [B, 1 + gh*gw, C].

    images: [B, 3, H, W], normalised; H and W multiples of the patch size.
    """
    patches = visual.conv1(images)
    tokens = patches.flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(tokens.dtype).expand(tokens.shape[0], 1, -1)
    positions = resize_positions(visual.positional_embedding, (patches.shape[2], patches.shape[3]))
    return visual.ln_pre(torch.cat([class_token, tokens], dim=1) + positions.to(tokens.dtype))


def identity_attention_block(block: Block, tokens: Tensor) -> Tensor:
    """A CLIP block in which each token attends to itself alone (MaskCLIP): [B, L, C] -> [B, L, C].

    With an identity attention matrix only the value and output projections are left; residual and MLP are kept.
    """
    width = tokens.shape[-1]
    values = F.linear(block.ln_1(tokens), block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :])
    tokens = tokens + block.attn.out_proj(values)
    return tokens + mlp(block, tokens)


def mlp(block: Block, tokens: Tensor) -> Tensor:
    """What a block's MLP adds to tokens: [B, L, C] -> [B, L, C]."""
    hidden = block.mlp.c_fc(block.ln_2(tokens))
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if torch.is_grad_enabled() or hidden.device.type != "cpu" or traced:
        hidden = recomputed_if_large(block.mlp.gelu, hidden)
    else:
        for rows in hidden.flatten(0, -2).split(ROWS):
            rows.copy_(block.mlp.gelu(rows))
    return block.mlp.c_proj(hidden)


def attention_block(block: Block, tokens: Tensor, first: int | None = None, mask: Tensor | None = None) -> Tensor:
    """An ordinary CLIP block: [B, L, C] -> [B, L, C].

    Torch's own holds the attention matrices of all heads, and multiplies each position by frozen weights apart where
    tokens want a gradient; here neither happens. For a gradient, a large MLP keeps one of its tensors instead of three.
    first: only so many tokens from the start are wanted. mask: added to the attention's logits, [L, L].
    """
    width, attention = tokens.shape[-1], block.attn
    weights, biases = attention.in_proj_weight, attention.in_proj_bias
    normed = block.ln_1(tokens)
    if first is None:
        queries, keys, values = F.linear(normed, weights, biases).chunk(3, dim=-1)
    else:
        queries = F.linear(normed[:, :first], weights[:width], biases[:width])
        keys, values = F.linear(normed, weights[width:], biases[width:]).chunk(2, dim=-1)
    heads = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (queries, keys, values))
    queries, keys, values = heads
    attended = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask).transpose(1, 2).flatten(2)
    tokens = tokens[:, :first] + attention.out_proj(attended)
    return tokens + mlp(block, tokens)


def embed_images(visual: ImageTower, images: Tensor, block: Callable[..., Tensor] = attention_block) -> Tensor:
    """CLIP's image embeddings [B, D], not normalised, for a gradient with respect to the images [B, 3, H, W] alone.

    block: `attention_block`, plain or compiled. Of the last block only the class token's row is computed.
    """
    tokens = embed_patches(visual, images)
    *blocks, last = visual.transformer.resblocks
    for each in blocks:
        step = partial(block, each)
        tokens = recomputed(step, tokens) if visual.transformer.grad_checkpointing else step(tokens)
    return visual.ln_post(block(last, tokens, first=1)[:, 0]) @ visual.proj


def run_blocks(blocks: Iterable[Block], tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Tokens [B, L, C] through ordinary blocks; mask: added to the attention's logits, [L, L]."""
    for block in blocks:
        tokens = attention_block(block, tokens, mask=mask)
    return tokens


def run_dense_blocks(blocks: Iterable[Block], tokens: Tensor) -> Tensor:
    """Tokens [B, L, C] through blocks of which the last has identity attention; without any, unchanged."""
    listed = list(blocks)
    tokens = run_blocks(listed[:-1], tokens)
    return identity_attention_block(listed[-1], tokens) if listed else tokens


def dense_embeddings(visual: ImageTower, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [B, 1 + gh*gw, C] behind the last block -> per-patch CLIP embeddings [B, D, gh, gw], not normalised."""
    embeddings = visual.ln_post(tokens[:, 1:]) @ visual.proj
    return embeddings.transpose(1, 2).unflatten(2, grid)


def patch_grid(visual: ImageTower, images: Tensor) -> tuple[int, int]:
    """The CLIP grid (gh, gw) of images [B, 3, H, W]."""
    patch_h, patch_w = visual.conv1.kernel_size
    return images.shape[2] // patch_h, images.shape[3] // patch_w


def encode_text(clip: Clip, tokens: Tensor) -> Tensor:
    """Text embeddings [n, D], not normalised; tokens: [n, context] int64.

    The feature is read at the largest token id, which is the end token's. Attention is causal, so what follows the
    last end token of all texts changes nothing and is not computed.
    """
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    states = clip.token_embedding(tokens[:, :length]) + clip.positional_embedding[:length]
    states = run_blocks(clip.transformer.resblocks, states, clip.attn_mask[:length, :length])
    return clip.ln_final(states[torch.arange(len(tokens), device=tokens.device), ends]) @ clip.text_projection


def clip_sizes(clip: Clip) -> ClipSizes:
    """Read the sizes off a built open_clip model."""
    import_open_clip()
    from open_clip.transformer import QuickGELU

    visual, blocks, text_blocks = clip.visual, clip.visual.transformer.resblocks, clip.transformer.resblocks
    patch = visual.conv1.kernel_size[0]
    return ClipSizes(
        embed_dim=visual.proj.shape[1],
        image_size=round((visual.positional_embedding.shape[0] - 1) ** 0.5) * patch,
        patch_size=patch,
        vision_width=visual.conv1.out_channels,
        vision_layers=len(blocks),
        vision_heads=blocks[0].attn.num_heads,
        context_length=clip.positional_embedding.shape[0],
        vocab_size=clip.token_embedding.num_embeddings,
        text_width=clip.positional_embedding.shape[1],
        text_layers=len(text_blocks),
        text_heads=text_blocks[0].attn.num_heads,
        quick_gelu=isinstance(blocks[0].mlp.gelu, QuickGELU),
    )
