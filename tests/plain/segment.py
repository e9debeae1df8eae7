"""Segmentation of an image, window by window: towers, decoder, masks, refinement, label map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl.inference.masks import TCLSegmenter, pad_to_multiple
from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import window_starts
from tcl.model.clip import Block, dense_embeddings, embed_patches, patch_grid
from tcl.model.grounder import DecoderLevel, GatedResidual, Grounder

from .pamr import pamr


def unit(x: Tensor, dim: int) -> Tensor:
    """x of length 1 along `dim`."""
    return x / x.norm(dim=dim, keepdim=True).clamp(min=1e-6)


def identity_attention(block: Block, tokens: Tensor) -> Tensor:
    """A whole attention block whose mask leaves each token itself alone: [B, L, C] -> [B, L, C]."""
    length = tokens.shape[1]
    mask = torch.full((length, length), -torch.inf, device=tokens.device).fill_diagonal_(0)
    return block(tokens, attn_mask=mask)


def gated_residual(part: GatedResidual, x: Tensor) -> Tensor:
    """x + tanh(gate) * conv3x3(GELU(LayerNorm(x)))."""
    return x + torch.tanh(part.gate) * part.conv(F.gelu(part.norm(x)))


def decoder_level(level: DecoderLevel, x: Tensor) -> Tensor:
    """Nearest x2 upsampling, and two residual convolutions on the large grid."""
    upsampled = F.interpolate(x, scale_factor=2, mode="nearest")
    return gated_residual(level.second, gated_residual(level.first, upsampled))


def grounder(grounder: Grounder, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens of the frozen trunk -> V [B, D, h, w]."""
    for block in grounder.blocks:
        tokens = identity_attention(block, tokens)
    x = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
    for level in grounder.levels:
        assert isinstance(level, DecoderLevel)
        x = decoder_level(level, x)
    return (grounder.norm(x.permute(0, 2, 3, 1)) @ grounder.projection).permute(0, 3, 1, 2)


@torch.no_grad()
def soft_masks(
    model: TCLSegmenter, image: Tensor, embeddings: Tensor, settings: InferenceSettings, half: bool = False
) -> Tensor:
    """Soft masks [1, N, H, W] of one window [1, 3, H, W]; the model has one copied block.

    half: towers and decoder run in bfloat16.
    """
    padded, inside = pad_to_multiple(image, model.patch_size)
    with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
        features, own = (maps.float() for maps in window_features(model, padded))
    masks = torch.sigmoid(model.mask_scale * cosines(features, embeddings) + model.mask_bias)
    if settings.pamr:
        masks = pamr(padded, masks, iterations=settings.pamr_iterations, dilations=settings.pamr_dilations)
    if settings.kp_w:
        prior = torch.sigmoid(10 * (cosines(own, embeddings) - 0.25))
        prior = F.interpolate(prior, size=masks.shape[2:], mode="bilinear")
        masks = settings.kp_w * prior + (1 - settings.kp_w) * masks
    return F.interpolate(masks, size=padded.shape[2:], mode="bilinear")[inside]


def window_features(model: TCLSegmenter, images: Tensor) -> tuple[Tensor, Tensor]:
    """V [B, D, h, w] and MaskCLIP's own map [B, D, gh, gw]."""
    visual = model.clip.visual
    grid = patch_grid(visual, images)
    tokens = embed_patches(visual, images)
    for block in model.trunk:
        tokens = block(tokens)
    last = identity_attention(visual.transformer.resblocks[-1], tokens)
    return grounder(model.grounder, tokens, grid), dense_embeddings(visual, last, grid)


def cosines(features: Tensor, embeddings: Tensor) -> Tensor:
    """[B, N, h, w] of features [B, D, h, w] and embeddings [N, D]."""
    return torch.einsum("bdhw,nd->bnhw", unit(features, 1), unit(embeddings, 1))


@torch.no_grad()
def segment(
    model: TCLSegmenter,
    image: Tensor,
    embeddings: Tensor,
    settings: InferenceSettings,
    *,
    background: bool,
    size: tuple[int, int],
    half: bool = False,
) -> Tensor:
    """Channel indices [*size] of a normalised image [1, 3, H, W], resized from one of `size`; half: in `soft_masks`."""
    height, width = image.shape[2:]
    side, channels = settings.window, len(embeddings) + background
    logits, visits = image.new_zeros(1, channels, height, width), image.new_zeros(1, 1, height, width)
    for top in window_starts(height, side, settings.stride):
        for left in window_starts(width, side, settings.stride):
            window = image[:, :, top : top + side, left : left + side]
            masks = soft_masks(model, window, embeddings, settings, half)
            if background:
                constant = torch.full_like(masks[:, :1], settings.background_threshold)
                masks = torch.cat([constant, masks], dim=1)
            logits[:, :, top : top + side, left : left + side] += masks
            visits[:, :, top : top + side, left : left + side] += 1
    resized = F.interpolate(logits / visits, size=size, mode="bilinear")
    return resized.softmax(dim=1).argmax(dim=1)[0]
