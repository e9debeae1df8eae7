"""Soft masks of one window: padding, refinement and resizing around a model's mask grid (paper, Sec. 3.5)."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl.inference.pamr import pamr
from tcl.inference.prompts import class_embeddings
from tcl.inference.settings import InferenceSettings
from tcl.model.clip import Clip, dense_embeddings, patch_grid, run_dense_blocks
from tcl.model.losses import normalise
from tcl.model.tcl import TCL


class SegmentationModel(Protocol):
    """What segmentation needs of a model: TCL itself, or a training-free method on the frozen CLIP."""

    settings: InferenceSettings

    def class_embeddings(self, names: list[str], templates: str = "custom") -> Tensor: ...

    def soft_masks(self, images: Tensor, embeddings: Tensor, pamr: bool = True, kp_w: float = 0.3) -> Tensor: ...


def pad_to_multiple(images: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, ...]]:
    """Zero-pad [B, 3, H, W] to multiples of `multiple`; left and top get the smaller half.

    Returns the padded images and the index of the originals in them.
    """
    height, width = images.shape[2:]
    extra_h, extra_w = -height % multiple, -width % multiple
    top, left = extra_h // 2, extra_w // 2
    padded = F.pad(images, (left, extra_w - left, top, extra_h - top))
    inside = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
    return padded, inside


def resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners False: [B, N, h, w] -> [B, N, *size]."""
    return F.interpolate(masks, size=size, mode="bilinear", align_corners=False)


def maskclip_features(clip: Clip, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """MaskCLIP's [B, D, gh, gw], of length 1, from tokens behind CLIP's last block, with identity attention there."""
    return normalise(dense_embeddings(clip.visual, tokens, grid), dim=1)


def cosine_maps(features: Tensor, embeddings: Tensor) -> Tensor:
    """Cosines [B, N, h, w] of features [B, D, h, w] and embeddings [N, D], both of length 1."""
    return torch.einsum("bdhw,nd->bnhw", features, embeddings)


class WindowFeatures(NamedTuple):
    """All that masks of one batch of windows need of the images; no word changes it.

    images: [B, 3, H, W], normalised, padded to the patch size. inside: where in them the windows lie. tcl: V
    [B, D, h, w], not normalised. maskclip: CLIP's own [B, D, gh, gw] of length 1, or None where it was not asked for.
    """

    images: Tensor
    inside: tuple[slice, ...]
    tcl: Tensor
    maskclip: Tensor | None


def knowledge_preserving_masks(cosines: Tensor) -> Tensor:
    """CLIP cosines -> soft masks in [0, 1]: sigmoid(10 * (cos - 0.25))."""
    return torch.sigmoid(10 * (cosines - 0.25))


class TCLSegmenter(TCL):
    """A TCL with its inference: class embeddings from names, soft masks from images."""

    settings = InferenceSettings()

    def class_embeddings(self, names: list[str], templates: str | list[str] = "custom") -> Tensor:
        """Embeddings [N, D] of class names, of length 1; templates: a set's official name, or a list of one's own."""
        return class_embeddings(self.clip, names, templates)

    @torch.no_grad()
    def soft_masks(self, images: Tensor, embeddings: Tensor, pamr: bool = True, kp_w: float = 0.3) -> Tensor:
        """Soft masks [B, N, H, W] in [0, 1]; images: [B, 3, H, W], normalised, of any size; embeddings: [N, D].

        kp_w: share of the frozen MaskCLIP map in the result (the paper's knowledge-preserving mix), in [0, 1].
        """
        embeddings = normalise(embeddings)
        window = self.window_features(images, maskclip=kp_w > 0)
        masks = torch.sigmoid(self.mask_logits(window.tcl, embeddings))
        if pamr:
            masks = refine(window.images, masks, self.settings)
        if window.maskclip is not None:
            prior = knowledge_preserving_masks(cosine_maps(window.maskclip, embeddings))
            masks = kp_w * resize(prior, (masks.shape[2], masks.shape[3])) + (1 - kp_w) * masks
        return resize(masks, (window.images.shape[2], window.images.shape[3]))[window.inside]

    @torch.no_grad()
    def window_features(self, images: Tensor, *, maskclip: bool) -> WindowFeatures:
        """Run the image tower and the grounder on [B, 3, H, W], normalised, any size; maskclip: CLIP's own map too."""
        padded, inside = pad_to_multiple(images, self.patch_size)
        grid = patch_grid(self.clip.visual, padded)
        tokens = self.frozen_tokens(padded)
        own = None
        if maskclip:
            last = run_dense_blocks(self.clip.visual.transformer.resblocks[len(self.trunk) :], tokens)
            own = maskclip_features(self.clip, last, grid)
        return WindowFeatures(padded, inside, self.grounder(tokens, grid), own)


def refine(images: Tensor, masks: Tensor, settings: InferenceSettings) -> Tensor:
    """PAMR with the settings' iterations and dilations."""
    return pamr(images, masks, iterations=settings.pamr_iterations, dilations=settings.pamr_dilations)
