"""TCL: CLIP's frozen towers, the grounder, and the objective that teaches it from image-text pairs (paper, Sec. 3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl.model import losses as L
from tcl.model.all_pairs import EAGER, Kernels, summarise
from tcl.model.clip import (
    Block,
    Clip,
    attention_block,
    embed_images,
    embed_patches,
    encode_text,
    patch_grid,
    run_blocks,
    run_dense_blocks,
)
from tcl.model.grounder import Grounder
from tcl.model.ranks import Ranks, current_ranks

TERMS = ("tcli", "tclf", "area_pos", "area_neg", "tv_image", "tv_mask")
"""The loss terms, in the order in which they are added up."""


@dataclass(frozen=True)
class Objective:
    """Weights of the loss terms and the area priors; the defaults are the paper's.

    soft_image_masks: the image-level loss sees the image under the soft mask. hard_pooling: the feature-level loss
    pools under the mask rounded to 0 or 1, with the soft mask's gradient. Both are ablations.
    """

    tcli: float = 0.1
    tclf: float = 0.1
    area: float = 0.4
    tv_image: float = 1.0
    tv_mask: float = 1.0
    area_prior: float = 0.4
    negative_area_prior: float = 0.0
    soft_image_masks: bool = False
    hard_pooling: bool = False


class Summary(NamedTuple):
    """What the losses couple, one row an image: rows of several parts of a batch may be put together.

    image_logits: <v_i, t_j> [B, N]; logits: <f_ij, t_j> [B, N]; text_logits: what texts are compared by, the same
    unless `as_upstream`; areas: of all masks [B, N]; tv_mask, tv_image: total variations [B].
    """

    image_logits: Tensor
    logits: Tensor
    text_logits: Tensor
    areas: Tensor
    tv_mask: Tensor
    tv_image: Tensor


class TCL(nn.Module):
    """The trainable model.

    clip: an open_clip CLIP, frozen. grounder: blocks `freeze`.. of its image tower copied, decoder, projection.
    mask_scale, mask_bias: initial w and b of the soft mask sigmoid(w*S + b).
    """

    kernels: Kernels = EAGER
    block: Callable[..., Tensor] = staticmethod(attention_block)

    def __init__(
        self,
        clip: Clip,
        grounder: Grounder,
        *,
        objective: Objective | None = None,
        mask_scale: float = 10.0,
        mask_bias: float = -2.5,
    ) -> None:
        super().__init__()
        self.clip: Clip = clip.requires_grad_(False)
        self.grounder = grounder
        self.objective = objective or Objective()
        self.mask_scale = nn.Parameter(torch.tensor(mask_scale))
        self.mask_bias = nn.Parameter(torch.tensor(mask_bias))
        initial_log_scale = torch.tensor(1 / 0.07).log()
        self.tcli_log_scale = nn.Parameter(initial_log_scale.clone())
        self.tclf_log_scale = nn.Parameter(initial_log_scale.clone())

    @property
    def trunk(self) -> list[Block]:
        """CLIP's image blocks that come before the grounder."""
        blocks = list(self.clip.visual.transformer.resblocks)
        return blocks[: len(blocks) - len(self.grounder.blocks)]

    @property
    def patch_size(self) -> int:
        """Side of a CLIP patch in pixels."""
        return int(self.clip.visual.conv1.kernel_size[0])

    def mask_grid(self, images: Tensor) -> tuple[int, int]:
        """The mask grid (h, w) of images [B, 3, H, W]: a cell is 4 pixels wide for ViT-B/16 with two decoder levels."""
        height, width = patch_grid(self.clip.visual, images)
        scale = 2 ** len(self.grounder.levels)
        return height * scale, width * scale

    def train_decoder_only(self, flag: bool = True) -> TCL:
        """Choose what learns: all but the grounder's copied blocks (phase 1), or these too (phase 2)."""
        self.grounder.blocks.requires_grad_(not flag)
        return self

    @torch.no_grad()
    def frozen_tokens(self, images: Tensor) -> Tensor:
        """Trunk tokens [B, 1 + gh*gw, C] that enter the grounder; images: [B, 3, H, W], normalised."""
        run = run_blocks if len(self.grounder.blocks) else run_dense_blocks
        return run(self.trunk, embed_patches(self.clip.visual, images))

    def features(self, images: Tensor) -> Tensor:
        """Text-aligned embeddings V [B, D, h, w] at every mask cell, not normalised."""
        features: Tensor = self.grounder(self.frozen_tokens(images), patch_grid(self.clip.visual, images))
        return features

    @torch.no_grad()
    def text_features(self, tokens: Tensor) -> Tensor:
        """Text embeddings [n, D], not normalised; tokens: [n, context] int64."""
        return encode_text(self.clip, tokens)

    def mask_logits(self, features: Tensor, texts: Tensor) -> Tensor:
        """w*S + b for every pair: [B, N, h, w]; features V [B, D, h, w], texts [N, D], normalised."""
        return self.mask_scale * L.similarity(features, texts) + self.mask_bias

    def losses(
        self,
        images: Tensor,
        tokens: Tensor,
        noise: Tensor | None = None,
        *,
        ranks: Ranks | None = None,
        as_upstream: bool = False,
    ) -> dict[str, Tensor]:
        """The terms of the objective as weighted in the sum, by the names in `TERMS`, and their `total`.

        images: [B, 3, H, W], normalised; tokens: [B, context], their captions. noise: the Gumbel mask's uniform draws
        in [0, 1), [B, h, w] for the positive pairs or [B, N, h, w] for all; drawn here if not given. ranks: the
        processes that share the batch; those of torch.distributed if not given. Area terms are means over the global
        batch; `as_upstream` takes them per rank, and texts against images, as the official code does on several GPUs.
        """
        ranks = ranks or current_ranks(images.device)
        texts = self.batch_texts(tokens, ranks)
        own = ranks.positions(len(images))
        summary = self.summary(images, self.frozen_tokens(images), texts, noise, positives=own, as_upstream=as_upstream)
        return self.terms(summary, ranks=ranks, as_upstream=as_upstream)

    def batch_texts(self, tokens: Tensor, ranks: Ranks) -> Tensor:
        """Embeddings of all ranks' captions [N, D], of length 1; tokens: this rank's, [B, context]."""
        return ranks.gather(L.normalise(self.text_features(tokens)))

    def summary(
        self,
        images: Tensor,
        frozen_tokens: Tensor,
        texts: Tensor,
        noise: Tensor | None = None,
        *,
        positives: slice,
        as_upstream: bool = False,
    ) -> Summary:
        """What the losses need of these images, whichever others are in the batch.

        frozen_tokens: the images' own, from `frozen_tokens`; texts: from `batch_texts`; positives: which of the texts
        are the images' captions, in their order; noise, as_upstream: as in `losses`.
        """
        features = self.grounder(frozen_tokens, patch_grid(self.clip.visual, images))
        scale, bias = self.mask_scale, self.mask_bias
        pairs = summarise(
            features,
            texts,
            scale=scale,
            bias=bias,
            positives=positives,
            hard_pooling=self.objective.hard_pooling,
            kernels=self.kernels,
        )
        draws = torch.rand_like(pairs.cosines) if noise is None else _positive_draws(noise, positives)
        logits = scale * pairs.cosines + bias
        shown = logits.sigmoid() if self.objective.soft_image_masks else L.straight_through_mask(logits, draws)
        masked = images * F.interpolate(shown[:, None], size=images.shape[-2:], mode="nearest")
        embeddings = L.normalise(embed_images(self.clip.visual, masked, self.block))
        text_logits = pairs.logits
        if as_upstream:
            grounded = L.grounded_embeddings(torch.sigmoid(self.mask_logits(features, texts[positives])), features)
            text_logits = L.upstream_text_logits(grounded, texts)
        with torch.autocast(images.device.type, enabled=False):  # logits are scaled by up to 100
            image_logits = embeddings.to(texts.dtype) @ texts.T
        return Summary(image_logits, pairs.logits, text_logits, pairs.areas, pairs.tv_mask, pairs.tv_image)

    def terms(self, summary: Summary, *, ranks: Ranks, as_upstream: bool = False) -> dict[str, Tensor]:
        """The loss terms as in `losses`, from the summary of this rank's whole batch."""
        own = ranks.positions(len(summary.areas))
        texts = summary.areas.shape[1]
        positive_area = summary.areas[:, own].diagonal()
        negative_area = (summary.areas.sum(dim=1) - positive_area) / max(texts - 1, 1)
        group = len(positive_area) if as_upstream else texts
        contrast = partial(L.info_nce, positives=own, gather=ranks.gather)
        weights = self.objective
        terms = {
            "tcli": weights.tcli * contrast(summary.image_logits, log_scale=self.tcli_log_scale),
            "tclf": weights.tclf
            * contrast(summary.logits, log_scale=self.tclf_log_scale, text_logits=summary.text_logits),
            "area_pos": weights.area * L.area(ranks.gather(positive_area), weights.area_prior, group=group),
            "area_neg": weights.area * L.area(ranks.gather(negative_area), weights.negative_area_prior, group=group),
            "tv_image": weights.tv_image * summary.tv_image.mean(),
            "tv_mask": weights.tv_mask * summary.tv_mask.mean(),
        }
        return {**terms, "total": torch.stack([terms[name] for name in TERMS]).sum()}


def _positive_draws(noise: Tensor, own: slice) -> Tensor:
    """The draws of the positive pairs [B, h, w] out of [B, h, w] or [B, N, h, w]."""
    return noise if noise.dim() == 3 else noise[:, own].diagonal(dim1=0, dim2=1).permute(2, 0, 1)
