"""TCL: CLIP's frozen towers, the grounder, and the objective that teaches it from image-text pairs (paper, Sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl.model import losses as L
from tcl.model.clip import Block, Clip, embed_patches, encode_text, patch_grid, run_blocks, run_dense_blocks
from tcl.model.grounder import Grounder
from tcl.model.ranks import Ranks, current_ranks

TERMS = ("tcli", "tclf", "area_pos", "area_neg", "tv_image", "tv_mask")
"""The loss terms, in the order in which they are added up."""


@dataclass(frozen=True)
class Objective:
    """Weights of the loss terms and the area priors; the defaults are the paper's."""

    tcl: float = 0.1
    area: float = 0.4
    tv_image: float = 1.0
    tv_mask: float = 1.0
    area_prior: float = 0.4
    negative_area_prior: float = 0.0


class TCL(nn.Module):
    """The trainable model.

    clip: an open_clip CLIP, frozen. grounder: blocks `freeze`.. of its image tower copied, decoder, projection.
    mask_scale, mask_bias: initial w and b of the soft mask sigmoid(w*S + b).
    """

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
        texts = ranks.gather(L.normalise(self.text_features(tokens)))
        own = ranks.positions(len(images))

        features = self.features(images)
        logits = self.mask_logits(features, texts)
        masks = torch.sigmoid(logits)
        positive_logits = logits[:, own].diagonal(dim1=0, dim2=1).permute(2, 0, 1)

        draws = torch.rand_like(positive_logits) if noise is None else _positive_draws(noise, own)
        hard = L.straight_through_mask(positive_logits, draws)
        masked = images * F.interpolate(hard[:, None], size=images.shape[-2:], mode="nearest")
        image_logits = L.normalise(self.clip.encode_image(masked)) @ texts.T

        areas = masks.mean(dim=(2, 3))
        positive_area = areas[:, own].diagonal()
        negative_area = (areas.sum(dim=1) - positive_area) / max(len(texts) - 1, 1)
        group = len(images) if as_upstream else len(texts)
        grounded = L.grounded_embeddings(masks, features)

        weights = self.objective
        terms = {
            "tcli": weights.tcl * L.info_nce(image_logits, own, log_scale=self.tcli_log_scale, gather=ranks.gather),
            "tclf": weights.tcl
            * L.info_nce(
                L.grounded_logits(grounded, texts),
                own,
                log_scale=self.tclf_log_scale,
                gather=ranks.gather,
                text_logits=L.upstream_text_logits(grounded, texts, own) if as_upstream else None,
            ),
            "area_pos": weights.area * L.area(ranks.gather(positive_area), weights.area_prior, group=group),
            "area_neg": weights.area * L.area(ranks.gather(negative_area), weights.negative_area_prior, group=group),
            "tv_image": weights.tv_image * L.total_variation(features),
            "tv_mask": weights.tv_mask * L.total_variation(masks),
        }
        return {**terms, "total": torch.stack([terms[name] for name in TERMS]).sum()}


def _positive_draws(noise: Tensor, own: slice) -> Tensor:
    """The draws of the positive pairs [B, h, w] out of [B, h, w] or [B, N, h, w]."""
    return noise if noise.dim() == 3 else noise[:, own].diagonal(dim1=0, dim2=1).permute(2, 0, 1)
