"""The part of TCL that runs on pictures, in a form that can be traced for any size."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl.inference.masks import TCLSegmenter, cosine_maps, knowledge_preserving_masks, resize


class DenseMasks(nn.Module):
    """Soft masks [B, N, H, W] in [0, 1] of images [B, 3, H, W], normalised, and word embeddings [N, D] of length 1.

    What `TCLSegmenter.soft_masks` computes without PAMR, padding and cropping included; kp_w: share of the frozen
    CLIP's own map.
    """

    def __init__(self, model: TCLSegmenter, *, kp_w: float) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for name in ("token_embedding", "transformer", "ln_final", "positional_embedding", "text_projection"):
            delattr(self.model.clip, name)  # the text tower: a server is given embeddings
        self.kp_w = kp_w

    def forward(self, images: Tensor, words: Tensor) -> Tensor:
        patch = self.model.patch_size
        height, width = images.shape[2:]
        size = ((height + patch - 1) // patch * patch, (width + patch - 1) // patch * patch)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        border = (left, size[1] - width - left, top, size[0] - height - top)
        window = self.model.window_features(F.pad(images, border), maskclip=self.kp_w > 0)
        masks = torch.sigmoid(self.model.mask_logits(window.dense, words))
        if window.maskclip is not None:
            prior = knowledge_preserving_masks(cosine_maps(window.maskclip, words))
            masks = self.kp_w * resize(prior, (masks.shape[2], masks.shape[3])) + (1 - self.kp_w) * masks
        # A slice of unknown size would be traced with a wrong claim about its memory; negative padding is not.
        return F.pad(resize(masks, size), [-extent for extent in border])
