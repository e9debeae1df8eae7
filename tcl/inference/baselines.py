"""Training-free segmentation: CLIP itself with another last block, under TCL's protocol.

A method is a function of CLIP's image blocks, of the tokens `states` that enter each of them (and last of all leave
the last one), [B, 1 + gh*gw, C] with the class token first, and of the grid (gh, gw). It returns the tokens that are
then read as patch embeddings. To add one, write such a function and enter it in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl.errors import TCLError
from tcl.inference.masks import WindowFeatures, knowledge_preserving_masks, pad_to_multiple, resize
from tcl.inference.prompts import class_embeddings
from tcl.inference.settings import InferenceSettings
from tcl.model.clip import Block, Clip, dense_embeddings, embed_patches, identity_attention_block, patch_grid
from tcl.model.losses import normalise

Method = Callable[[Sequence[Block], Sequence[Tensor], tuple[int, int]], Tensor]

NEIGHBOURHOOD = 5.0
"""Standard deviation of NACLIP's Gaussian, in patches."""
GEM_DEPTH = 7
"""Blocks of GEM's parallel path."""


def clip(blocks: Sequence[Block], states: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """CLIP as it is, its patch tokens read like the class token (Radford et al., 2021)."""
    return states[-1]


def maskclip(blocks: Sequence[Block], states: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Identity attention, residual and MLP kept (Zhou et al., 2022, as TCL defines it)."""
    return identity_attention_block(blocks[-1], states[-2])


def sclip(blocks: Sequence[Block], states: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """softmax(qq) + softmax(kk), a sum; residual and MLP kept (Wang et al., 2024)."""
    block, tokens = blocks[-1], states[-2]
    queries, keys, values = projections(block, tokens)
    tokens = tokens + joined(block, (attention(queries) + attention(keys)) @ values)
    return tokens + block.mlp(block.ln_2(tokens))


def naclip(blocks: Sequence[Block], states: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """softmax(kk + G), G a Gaussian of the distance between patches; no residual, no MLP (Hajimiri et al., 2025)."""
    _, keys, values = projections(blocks[-1], states[-2])
    return joined(blocks[-1], attention(keys, bias=neighbourhood(grid).to(keys)) @ values)


def clearclip(blocks: Sequence[Block], states: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """softmax(qq); no residual, no MLP (Lan et al., 2024)."""
    queries, _, values = projections(blocks[-1], states[-2])
    return joined(blocks[-1], attention(queries) @ values)


def gem(blocks: Sequence[Block], states: Sequence[Tensor], grid: tuple[int, int]) -> Tensor:
    """Self-self attention of the last seven blocks, added up beside CLIP's own path (Bousselham et al., 2024).

    In each block v, k and q, normalised, attend to themselves once, and then each to v; the three are averaged. The
    temperature is the mean length of the block's normalised tokens. Residual kept, no MLP.
    """
    depth = min(GEM_DEPTH, len(blocks))
    tokens = states[-1 - depth]
    for block, own in zip(blocks[-depth:], states[-1 - depth : -1], strict=True):
        length = block.ln_1(own).norm(dim=-1).mean(dim=1).view(-1, 1, 1, 1)
        queries, keys, values = projections(block, own)
        gathered = torch.zeros_like(values)
        for each in (values, keys, queries):
            unit = F.normalize(each, dim=-1)
            unit = F.normalize(attention(unit, temperature=length) @ unit, dim=-1)
            gathered += attention(unit, temperature=length) @ values
        tokens = tokens + joined(block, gathered / 3)
    return tokens


METHODS: dict[str, Method] = {
    "clip": clip,
    "maskclip": maskclip,
    "sclip": sclip,
    "naclip": naclip,
    "clearclip": clearclip,
    "gem": gem,
}


def projections(block: Block, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a block's attention: each [B, heads, L, d]; tokens: [B, L, C]."""
    together = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
    queries, keys, values = together.unflatten(2, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return queries, keys, values


def attention(x: Tensor, *, temperature: Tensor | float = 1.0, bias: Tensor | None = None) -> Tensor:
    """softmax(temperature * x x^T / sqrt(d) + bias): [B, heads, L, d] -> [B, heads, L, L]."""
    logits = x @ x.mT * (temperature * x.shape[-1] ** -0.5)
    return (logits if bias is None else logits + bias).softmax(dim=-1)


def joined(block: Block, heads: Tensor) -> Tensor:
    """The attention's output projection over its heads [B, heads, L, d]: [B, L, C]."""
    return block.attn.out_proj(heads.transpose(1, 2).flatten(2))


def neighbourhood(grid: tuple[int, int]) -> Tensor:
    """exp(-|p - q|^2 / (2 * 5^2)) between patches, 0 to and from the class token: [1 + gh*gw, 1 + gh*gw]."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).float()
    squared = (places[:, None] - places).square().sum(dim=-1)
    return F.pad(torch.exp(-squared / (2 * NEIGHBOURHOOD**2)), (1, 0, 1, 0))


class TrainingFree(nn.Module):
    """Several methods on one frozen CLIP: they share its tokens and the refinement's affinities.

    levels: how often the patch grid is doubled before PAMR; as often as TCL's decoder does it, so that both are
    refined alike. Raises TCLError if a method is not known.
    """

    def __init__(self, clip: Clip, methods: Sequence[str], settings: InferenceSettings, *, levels: int) -> None:
        super().__init__()
        if unknown := [name for name in methods if name not in METHODS]:
            raise TCLError(f"baselines.methods: {', '.join(unknown)} is not known. There are: {', '.join(METHODS)}.")
        self.clip: Clip = clip
        self.methods = [METHODS[name] for name in methods]
        self.settings = settings
        self.levels = levels

    def class_embeddings(self, names: list[str], templates: str | list[str] = "custom") -> Tensor:
        """Embeddings [N, D] of class names, of length 1."""
        return class_embeddings(self.clip, names, templates)

    @torch.no_grad()
    def window_features(self, images: Tensor, *, maskclip: bool) -> WindowFeatures:
        """Dense embeddings of the M methods, one after the other along the first dimension: [M * B, D, gh, gw].

        images: [B, 3, H, W], normalised, any size. There is nothing to mix, whatever `maskclip` says.
        """
        visual = self.clip.visual
        padded, inside = pad_to_multiple(images, visual.conv1.kernel_size[0])
        grid = patch_grid(visual, padded)
        blocks = list(visual.transformer.resblocks)
        states = block_states(blocks, embed_patches(visual, padded))
        dense = [dense_embeddings(visual, method(blocks, states, grid), grid) for method in self.methods]
        return WindowFeatures(padded, inside, torch.cat(dense), None)

    def grid_masks(self, features: WindowFeatures, embeddings: Tensor) -> Tensor:
        """Soft masks of the M methods, one after the other: [B, M * N, h, w].

        sigmoid(10 * (cos - 0.25)), as TCL takes it of MaskCLIP.
        """
        cosines = [
            torch.einsum("bdhw,nd->bnhw", normalise(each, dim=1), embeddings)
            for each in features.dense.chunk(len(self.methods))
        ]
        height, width = features.dense.shape[2:]
        masks = knowledge_preserving_masks(torch.cat(cosines, dim=1))
        return resize(masks, (height << self.levels, width << self.levels))


def block_states(blocks: Sequence[Block], tokens: Tensor) -> list[Tensor]:
    """The tokens that enter each of the blocks, and those that leave the last one."""
    states = [tokens]
    for block in blocks:
        states.append(block(states[-1]))
    return states
