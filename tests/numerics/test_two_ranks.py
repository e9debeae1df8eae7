"""Two gloo processes: the gradients of the official code's two, and of one process with the whole batch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tcl.inference.masks import TCLSegmenter

from .conftest import OUR_NAMES, sampled_like

ROOT = Path(__file__).parents[2]
LOCAL = 4  # images on each rank


def run_two_ranks(out: Path, *, as_upstream: bool, decoder_only: bool) -> list[dict[str, np.ndarray]]:
    """Losses and averaged gradients of both ranks."""
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = [
        "-m",
        "tests.numerics.rank_gradients",
        str(out),
        "upstream" if as_upstream else "ours",
        "decoder" if decoder_only else "all",
    ]
    subprocess.run([sys.executable, *command, *script], cwd=ROOT, check=True, timeout=300)
    return [dict(np.load(out / f"rank{rank}.npz")) for rank in range(2)]


@pytest.mark.parametrize(("phase", "decoder_only"), [("ust", True), ("full_fresh_wrapper", False)])
def test_gradients_are_the_mean_over_ranks(phase: str, decoder_only: bool, reference: Any, tmp_path: Path) -> None:
    ranks = run_two_ranks(tmp_path, as_upstream=True, decoder_only=decoder_only)
    gradients = {key: value for key, value in reference("two_ranks_gradients").items() if key.startswith(phase + "/")}
    for rank, found in enumerate(ranks):
        expected = reference(f"two_ranks_{rank}")
        names = expected[f"{phase}/grad_names"]
        assert {OUR_NAMES[name] for name in names} == {key for key in found if not key.startswith("loss/")}
        for name, norm in zip(names, expected[f"{phase}/grad_norms"], strict=True):
            assert np.linalg.norm(found[OUR_NAMES[name]]) == pytest.approx(norm, rel=1e-4, abs=1e-6), name
        for key, theirs in gradients.items():
            _, kind, name = key.split("/")
            ours = sampled_like(torch.from_numpy(found[OUR_NAMES[name]]), kind, theirs).numpy()
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max() + 1e-8, err_msg=name)


def test_two_ranks_equal_one_process(reference: Any, model: TCLSegmenter, tmp_path: Path) -> None:
    ranks = run_two_ranks(tmp_path, as_upstream=False, decoder_only=False)
    parts = [reference(f"two_ranks_{rank}") for rank in range(2)]
    images, tokens = (np.concatenate([part[key] for part in parts]) for key in ("image", "tokens"))
    noise = np.stack([part["noise_u"][i, rank * LOCAL + i] for rank, part in enumerate(parts) for i in range(LOCAL)])
    model.double().train_decoder_only(False)
    losses = model.losses(
        torch.from_numpy(images).double(), torch.from_numpy(tokens).long(), torch.from_numpy(noise).double()
    )
    losses["total"].backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            np.testing.assert_allclose(ranks[0][name], parameter.grad.numpy(), rtol=1e-9, atol=1e-13, err_msg=name)
            np.testing.assert_array_equal(ranks[0][name], ranks[1][name])
    for term in losses:
        means = np.mean([found[f"loss/{term}"] for found in ranks])
        assert float(losses[term].detach()) == pytest.approx(means, rel=1e-12)
