"""What the loop can train: TCL on a frozen CLIP, and the demo's CLIP itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tcl.mends import import_open_clip
from tcl.model.clip import Clip, encode_text
from tcl.model.losses import info_nce, normalise
from tcl.model.ranks import Ranks
from tcl.model.tcl import TCL
from tcl.training.draws import PATCHES, stream_seed, uniform


class TCLTask:
    """TCL in two phases: first the decoder and the projection, then the grounder's copied block too (Sec. 4.1)."""

    def __init__(self, model: TCL, *, seed: int, decoder_only_steps: int, ranks: Ranks) -> None:
        self.model, self.seed, self.ranks = model, seed, ranks
        self.decoder_only_steps = decoder_only_steps
        self.parameters: dict[str, nn.Parameter] = {
            name: p for name, p in model.named_parameters() if not name.startswith("clip.")
        }

    def begin(self, step: int) -> None:
        self.model.train_decoder_only(step < self.decoder_only_steps)

    def losses(self, batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        images = batch["images"].to(self.ranks.device, non_blocking=True)
        tokens = batch["tokens"].to(self.ranks.device, non_blocking=True)
        own = self.ranks.positions(len(images))
        noise = uniform(self.seed, step, range(own.start, own.stop), self.model.mask_grid(images)).to(self.ranks.device)
        return self.model.losses(images, tokens, noise, ranks=self.ranks)


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
