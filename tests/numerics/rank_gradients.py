"""Run by torchrun in test_two_ranks: this rank's losses and the averaged gradients, written to a file."""

import sys
from pathlib import Path

import numpy as np
import torch

from tcl.inference.load import from_checkpoint
from tcl.model.official import translate
from tcl.model.ranks import joined_ranks
from tests.numerics.conftest import REFERENCE, official_weights


def main(out: Path, *, area_group: int | None, decoder_only: bool) -> None:
    with joined_ranks() as ranks:
        model = from_checkpoint(translate(official_weights(), source="reference"), source="reference").double()
        model.train_decoder_only(decoder_only)
        with np.load(REFERENCE / f"two_ranks_{ranks.rank}.npz") as batch:
            images, noise = (torch.from_numpy(batch[key]).double() for key in ("image", "noise_u"))
            tokens = torch.from_numpy(batch["tokens"]).long()
        losses = model.losses(images, tokens, noise, ranks=ranks, area_group=area_group)
        losses["total"].backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        ranks.average(list(gradients.values()))
        values = {f"loss/{name}": value.detach().numpy() for name, value in losses.items()}
        np.savez(out / f"rank{ranks.rank}.npz", **values, **{k: g.numpy() for k, g in gradients.items()})


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        area_group=int(sys.argv[2]) or None,
        decoder_only=sys.argv[3] == "decoder",
    )
