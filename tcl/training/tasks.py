"""What the loop can train: TCL on a frozen CLIP, and the demo's CLIP itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tcl.mends import import_open_clip
from tcl.model.checkpoint import tcl_sizes
from tcl.model.clip import Clip, clip_sizes, encode_text
from tcl.model.flops import clip_step, tcl_step
from tcl.model.losses import info_nce, normalise
from tcl.model.ranks import Ranks
from tcl.model.tcl import TCL, Summary
from tcl.training.draws import PATCHES, stream_seed
from tcl.training.micro_batches import Parts, backward
from tcl.training.precision import Precision


class TCLTask:
    """TCL in two phases: first the decoder and the projection, then the grounder's copied block too (Sec. 4.1).

    micro_batch: images that go through the model at a time on each rank, which changes the memory that a step takes
    and nothing else; None takes the rank's whole share.
    """

    def __init__(
        self, model: TCL, *, decoder_only_steps: int, global_batch: int, ranks: Ranks, micro_batch: int | None = None
    ) -> None:
        self.model, self.ranks, self.micro_batch = model, ranks, micro_batch
        self.decoder_only_steps, self.global_batch = decoder_only_steps, global_batch
        self.parameters: dict[str, nn.Parameter] = {
            name: p for name, p in model.named_parameters() if not name.startswith("clip.")
        }

    def begin(self, step: int) -> None:
        self.model.train_decoder_only(step < self.decoder_only_steps)

    def flops_per_pair(self, step: int) -> float:
        decoder_only = step < self.decoder_only_steps
        return tcl_step(tcl_sizes(self.model), global_batch=self.global_batch, decoder_only=decoder_only).total

    def backward(self, batch: dict[str, Any], step: int, precision: Precision) -> dict[str, Tensor]:
        device = self.ranks.device
        images, tokens, noise = (batch[key].to(device, non_blocking=True) for key in ("images", "tokens", "noise"))
        own = self.ranks.positions(len(images))
        with precision.autocast():
            texts = self.model.batch_texts(tokens, self.ranks)
        pieces = list(zip(*(tensor.split(self.micro_batch or len(images)) for tensor in (images, noise)), strict=True))
        frozen: dict[int, Tensor] = {}

        def rows(part: int) -> Summary:
            some, draws = pieces[part]
            start = own.start + part * len(pieces[0][0])
            with precision.autocast():
                if part not in frozen:
                    frozen[part] = self.model.frozen_tokens(some)
                positives = slice(start, start + len(some))
                return self.model.summary(some, frozen[part], texts, draws, positives=positives)

        def terms(rows: tuple[Tensor, ...]) -> dict[str, Tensor]:
            summary = Summary(*rows)
            area = summary.areas[:, own].diagonal().mean()
            return {**self.model.terms(summary, ranks=self.ranks), "mask_area": area}

        return backward(Parts(len(pieces), rows, terms), precision.backward)

    def temperatures(self) -> dict[str, Tensor]:
        model = self.model
        scales = {"tcli_scale": model.tcli_log_scale.exp(), "tclf_scale": model.tclf_log_scale.exp()}
        return {**scales, "mask_scale": model.mask_scale, "mask_bias": model.mask_bias}


class CLIPTask:
    """Contrastive language-image pre-training of all of CLIP's weights (Radford et al., 2021).

    In the first `masked_steps` a share `masking` of each image's patches, drawn at random, is left out, which makes a
    step cheaper (FLIP, Li et al., 2023); after that images are seen whole.
    """

    def __init__(self, clip: Clip, *, seed: int, masking: float, masked_steps: int, ranks: Ranks) -> None:
        import_open_clip()
        from open_clip.transformer import PatchDropout

        self.clip, self.seed, self.ranks = clip, seed, ranks
        self.masked_steps = masked_steps
        self.masked, self.whole = PatchDropout(masking), nn.Identity()
        self.parameters = dict(clip.named_parameters())

    def begin(self, step: int) -> None:
        self.clip.visual.patch_dropout = self.masked if step < self.masked_steps else self.whole
        torch.manual_seed(stream_seed(self.seed, step, self.ranks.rank, stream=PATCHES))

    def losses(self, batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        images = normalise(self.clip.encode_image(batch["images"].to(self.ranks.device)))
        own = self.ranks.positions(len(images))
        texts = self.ranks.gather(normalise(encode_text(self.clip, batch["tokens"].to(self.ranks.device))))
        loss = info_nce(images @ texts.T, own, log_scale=self.clip.logit_scale, gather=self.ranks.gather)
        return {"total": loss}

    def backward(self, batch: dict[str, Any], step: int, precision: Precision) -> dict[str, Tensor]:
        with precision.autocast():
            terms = self.losses(batch, step)
        precision.backward(terms["total"])
        return terms

    def flops_per_pair(self, step: int) -> float:
        return clip_step(clip_sizes(self.clip), share=1 - self.masked.prob if step < self.masked_steps else 1.0)

    def temperatures(self) -> dict[str, Tensor]:
        return {"scale": self.clip.logit_scale.exp()}
