"""Run by torchrun in test_two_ranks: this rank's losses and the averaged gradients, written to a file."""

import sys
from pathlib import Path

import numpy as np
import torch

from tcl.model.ranks import joined_ranks
from tests.numerics.conftest import REFERENCE, reference_model


def main(out: Path, *, as_upstream: bool, decoder_only: bool) -> None:
    with joined_ranks() as ranks:
        model = reference_model().double().train_decoder_only(decoder_only)
        with np.load(REFERENCE / f"two_ranks_{ranks.rank}.npz") as batch:
            images, noise = (torch.from_numpy(batch[key]).double() for key in ("image", "noise_u"))
            tokens = torch.from_numpy(batch["tokens"]).long()
        losses = model.losses(images, tokens, noise, ranks=ranks, as_upstream=as_upstream)
        losses["total"].backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        ranks.average(list(gradients.values()))
        values = {f"loss/{name}": value.detach().numpy() for name, value in losses.items()}
        values |= {name: gradient.numpy() for name, gradient in gradients.items()}
        np.savez(out / f"rank{ranks.rank}.npz", allow_pickle=False, **values)


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        as_upstream=sys.argv[2] == "upstream",
        decoder_only=sys.argv[3] == "decoder",
    )
