"""A training step of TCL in the official order of operations: every map whole, every tower run to its end."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl.model import losses as L
from tcl.model.clip import Block, embed_patches, patch_grid
from tcl.model.grounder import GatedResidual
from tcl.model.tcl import TCL


def losses(model: TCL, images: Tensor, tokens: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The terms of the objective, weighted, and their `total`, of one process.

    images: [B, 3, H, W]; tokens: [B, context]; noise: uniform draws [B, B, h, w] for the hard masks of all pairs.
    """
    with torch.no_grad():
        texts = L.normalise(encode_text(model, tokens))
        frozen = frozen_tokens(model, images)
    features = ground(model, frozen, patch_grid(model.clip.visual, images))
    logits = model.mask_scale * L.similarity(features, texts) + model.mask_bias
    soft = torch.sigmoid(logits)
    hard = L.straight_through_mask(logits, noise).diagonal().permute(2, 0, 1)
    masked = images * F.interpolate(hard[:, None], size=images.shape[-2:], mode="nearest")
    embeddings = L.normalise(model.clip.encode_image(masked))
    grounded = L.grounded_logits(L.grounded_embeddings(soft, features), texts)
    areas, weights, own = soft.mean(dim=(2, 3)), model.objective, slice(0, len(images))
    negative = areas[~torch.eye(len(images), dtype=torch.bool, device=images.device)]

    def contrast(logits: Tensor, log_scale: Tensor) -> Tensor:
        return L.info_nce(logits, own, log_scale=log_scale, gather=lambda rows: rows)

    terms = {
        "tcli": weights.tcli * contrast(embeddings @ texts.T, model.tcli_log_scale),
        "tclf": weights.tclf * contrast(grounded, model.tclf_log_scale),
        "area_pos": weights.area * (areas.diagonal().mean() - weights.area_prior).abs(),
        "area_neg": weights.area * (negative.mean() - weights.negative_area_prior).abs(),
        "tv_image": weights.tv_image * L.total_variation(features).mean(),
        "tv_mask": weights.tv_mask * L.total_variation(soft).mean(),
    }
    return {**terms, "total": torch.stack(list(terms.values())).sum()}


def encode_text(model: TCL, tokens: Tensor) -> Tensor:
    """Text embeddings [n, D], not normalised, by way of all positions."""
    clip = model.clip
    states = clip.transformer(clip.token_embedding(tokens) + clip.positional_embedding, attn_mask=clip.attn_mask)
    return clip.ln_final(states)[torch.arange(len(tokens)), tokens.argmax(dim=-1)] @ clip.text_projection


def frozen_tokens(model: TCL, images: Tensor) -> Tensor:
    """Tokens [B, 1 + gh*gw, C] that enter the grounder's block; CLIP's own last block runs too, for nothing."""
    *trunk, last = model.clip.visual.transformer.resblocks
    tokens = embed_patches(model.clip.visual, images)
    for block in trunk:
        tokens = block(tokens)
    identity_attention_block(last, tokens)
    return tokens


def identity_attention_block(block: Block, tokens: Tensor) -> Tensor:
    """A block whose attention is masked so that each token sees itself alone."""
    length = tokens.shape[1]
    mask = torch.full((length, length), float("-inf"), device=tokens.device).fill_diagonal_(0)
    return block(tokens, attn_mask=mask)


def ground(model: TCL, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Embeddings V [B, D, h, w], not normalised: each level upsamples first."""
    grounder: Any = model.grounder
    (block,) = grounder.blocks
    features = identity_attention_block(block, tokens)[:, 1:].transpose(1, 2).unflatten(2, grid)
    for level in grounder.levels:
        features = F.interpolate(features, scale_factor=2, mode="nearest")
        for residual in level.children():
            assert isinstance(residual, GatedResidual)
            features = features + torch.tanh(residual.gate) * residual.conv(F.gelu(residual.norm(features)))
    embeddings = grounder.norm(features.permute(0, 2, 3, 1)) @ grounder.projection
    return embeddings.permute(0, 3, 1, 2)
