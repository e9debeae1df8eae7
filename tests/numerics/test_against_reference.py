"""Our model equals the official one on its reference outputs."""

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from tcl import tokenize
from tcl.inference.masks import TCLSegmenter
from tcl.inference.pamr import pamr
from tcl.model.tcl import TERMS
from tcl.training.optim import adamw, learning_rate

from .conftest import OUR_NAMES, REFERENCE, sampled_like

OFFICIAL_TERMS = dict(
    zip(
        TERMS,
        ("tcli_loss", "tclf_loss", "area_loss", "neg_area_loss", "tv_img_loss", "tv_mask_loss"),
        strict=True,
    )
)


def gradients(model: TCLSegmenter) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_tokens(reference: Any) -> None:
    captions = json.loads((REFERENCE / "captions.json").read_text(encoding="utf-8"))
    expected = torch.from_numpy(reference("tokens")["tokens"]).long()
    assert torch.equal(tokenize(captions), expected)


@pytest.mark.parametrize(
    ("dtype", "terms", "rounding"),
    [(torch.float64, 1e-8, 1e-8), (torch.float32, 1e-5, 1e-4)],
    ids=["float64", "float32"],
)
@pytest.mark.parametrize(("phase", "decoder_only"), [("ust_gumbel", True), ("full_gumbel", False)])
def test_losses_and_gradients(
    phase: str,
    decoder_only: bool,
    dtype: torch.dtype,
    terms: float,
    rounding: float,
    reference: Any,
    model: TCLSegmenter,
) -> None:
    expected = reference("train_float64")
    model.to(dtype).train_decoder_only(decoder_only)
    images, noise = (torch.from_numpy(expected[key]).to(dtype) for key in ("image", "noise_u"))
    losses = model.losses(images, torch.from_numpy(expected["tokens"]).long(), noise)
    for term, official in OFFICIAL_TERMS.items():
        assert float(losses[term].detach()) == pytest.approx(float(expected[f"{phase}/log/{official}"]), rel=terms)
    assert float(losses["total"].detach()) == pytest.approx(float(expected[f"{phase}/loss"]), rel=terms)
    losses["total"].backward()
    found = gradients(model)
    assert {OUR_NAMES[name] for name in expected[f"{phase}/grad_names"]} == set(found)
    for name, norm in zip(expected[f"{phase}/grad_names"], expected[f"{phase}/grad_norms"], strict=True):
        assert float(found[OUR_NAMES[name]].norm()) == pytest.approx(norm, rel=rounding, abs=1e-9)
    for key in expected:
        if match := re.fullmatch(rf"{phase}/(grad|gradsample)/(.+)", key):
            ours = sampled_like(found[OUR_NAMES[match.group(2)]], match.group(1), expected[key], samples=512)
            theirs = torch.from_numpy(expected[key]).to(dtype)
            assert_close(ours, theirs, rtol=rounding, atol=rounding * float(theirs.abs().max()) + 1e-12)


def test_noise_of_the_positives_is_enough(reference: Any, model: TCLSegmenter) -> None:
    expected = reference("train_float64")
    images, tokens = torch.from_numpy(expected["image"]), torch.from_numpy(expected["tokens"]).long()
    noise = torch.from_numpy(expected["noise_u"])
    positives = torch.stack([noise[i, i] for i in range(len(noise))])
    with torch.no_grad():
        every, own = model.losses(images, tokens, noise), model.losses(images, tokens, positives)
    assert all(torch.equal(every[term], own[term]) for term in every)


def test_six_steps_with_the_change_of_phase(reference: Any, model: TCLSegmenter) -> None:
    expected, after = reference("six_steps"), reference("after_six_steps")
    learned = {name: p for name, p in model.named_parameters() if not name.startswith("clip.")}
    ours = {OUR_NAMES[name]: i for i, name in enumerate(expected["param_names"])}

    class Plan:
        global_batch, last_step, warmup, lr, min_lr = 4, 6, 2, 3e-4, 4e-5
        betas, eps, weight_decay, clip_norm = (0.9, 0.999), 1e-6, 0.05, 5.0
        log_every = checkpoint_every = 1

    optimizer = adamw(learned.values(), Plan())
    for step in range(6):
        model.train_decoder_only(step < 3)
        rate = learning_rate(step, peak=3e-4, floor=4e-5, warmup=2, last_step=6)
        assert rate == pytest.approx(expected["lr"][step, 0], rel=1e-12)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        batch = [torch.from_numpy(expected[key][step]) for key in ("image", "tokens", "noise_u")]
        losses = model.losses(batch[0], batch[1].long(), batch[2])
        losses["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(learned.values(), 5.0)
        optimizer.step()
        for term, official in {**OFFICIAL_TERMS, "total": "loss"}.items():
            reported = expected["loss"] if term == "total" else after[f"log/{official}"]
            unit = 2**-25 if term == "area_pos" else 0  # of a mean in float32, which is subtracted from 0.4
            assert float(losses[term].detach()) == pytest.approx(reported[step], rel=1e-5, abs=unit)
        assert float(norm) == pytest.approx(expected["grad_norm"][step], rel=1e-4)
        norms = expected["param_sum_norm"][step + 1, :, 1]
        for name, parameter in learned.items():
            assert float(parameter.detach().norm()) == pytest.approx(norms[ours[name]], rel=1e-5, abs=1e-6), name
    for key in after:
        if match := re.fullmatch(r"(param|paramsample)/(.+)", key):
            found = sampled_like(learned[OUR_NAMES[match.group(2)]].detach(), match.group(1), after[key])
            assert_close(found, torch.from_numpy(after[key]), rtol=1e-4, atol=1e-5)


def test_weight_decay_reaches_the_scalars(reference: Any, model: TCLSegmenter) -> None:
    decayed = {OUR_NAMES[name] for name in reference("six_steps")["decay_group"]}
    for name, parameter in model.named_parameters():
        if not name.startswith("clip."):
            assert (parameter.ndim != 1) == (name in decayed), name


@pytest.mark.parametrize(
    ("key", "peak", "floor", "last_step", "warmup", "every"),
    [
        ("lrseq_50_15", 3e-4, 4e-5, 50, 15, 1),
        ("lrseq_8_3", 1e-3, 1e-4, 8, 3, 1),
        ("lrseq_50000_15000", 3e-4, 4e-5, 50000, 15000, 250),
    ],
)
def test_learning_rates(
    key: str, peak: float, floor: float, last_step: int, warmup: int, every: int, reference: Any
) -> None:
    expected = reference("six_steps")[key][: last_step // every + 1]
    ours = [
        learning_rate(i * every, peak=peak, floor=floor, warmup=warmup, last_step=last_step)
        for i in range(len(expected))
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float64, 1e-9), (torch.float32, 2e-5)], ids=["float64", "float32"]
)
@pytest.mark.parametrize(("size", "refined"), [("64x64", False), ("90x100", True)])
def test_soft_masks(
    size: str, refined: bool, dtype: torch.dtype, rounding: float, reference: Any, model: TCLSegmenter
) -> None:
    expected = reference("masks_float64")
    model.to(dtype)
    embeddings = model.class_embeddings(list(expected["class_names"]))
    assert_close(embeddings.double(), torch.from_numpy(expected["text_embedding"]), rtol=0, atol=rounding)
    masks = model.soft_masks(torch.from_numpy(expected[f"{size}/image"]).to(dtype), embeddings, refined, 0.3)
    theirs = torch.from_numpy(expected[f"{size}/pamr{int(refined)}"])
    assert_close(masks[:, :3].double(), theirs, rtol=0, atol=rounding)


def test_pamr_in_double_precision(reference: Any, device: torch.device) -> None:
    expected = reference("pamr_float64")
    image, mask = (torch.from_numpy(expected[name]).to(device, torch.float64) for name in ("image", "mask"))
    assert_close(pamr(image, mask).cpu(), torch.from_numpy(expected["out"]), rtol=0, atol=1e-12)
