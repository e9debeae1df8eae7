"""A training step of TCL in the official order of operations: every map whole, every tower run to its end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl.model import losses as L
from tcl.model.clip import embed_patches, patch_grid
from tcl.model.tcl import TCL

from .segment import grounder, identity_attention


def losses(model: TCL, images: Tensor, tokens: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """The terms of the objective, weighted, and their `total`, of one process.

    images: [B, 3, H, W]; tokens: [B, context]; noise: uniform draws [B, B, h, w] for the hard masks of all pairs.
    """
    with torch.no_grad():
        texts = L.normalise(model.clip.encode_text(tokens))
        frozen = frozen_tokens(model, images)
    features = grounder(model.grounder, frozen, patch_grid(model.clip.visual, images))
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


def frozen_tokens(model: TCL, images: Tensor) -> Tensor:
    """Tokens [B, 1 + gh*gw, C] that enter the grounder's block; CLIP's own last block runs too, for nothing."""
    *trunk, last = model.clip.visual.transformer.resblocks
    tokens = embed_patches(model.clip.visual, images)
    for block in trunk:
        tokens = block(tokens)
    identity_attention(last, tokens)
    return tokens
