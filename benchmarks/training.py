"""python -m benchmarks.training [--model tiny]: a training step of TCL, whole and by part.

What is timed: steps of the second phase on random images and texts, with random weights, ViT-B/16 at 224 pixels unless
told otherwise. `step` is forward, backward and optimiser as training does them; the parts are timed apart from it, each
with its own backward pass, on one micro-batch, and given as shares of their sum for the whole batch. `data` is what one
loading process needs, and how many keep up with the step. TFLOP/s counts each product once (tcl/model/flops.py), and
its share is that of the device's own speed in large matrix products. The layout is taken from TCL_MICRO_BATCH,
TCL_COMPILE, TCL_RECOMPUTE and TCL_CHANNELS_LAST; where a batch does not fit, the micro-batch is halved until it does.
"""

from __future__ import annotations

import argparse
import gc
import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from tcl.commands.machine import machine
from tcl.model import flops
from tcl.model.all_pairs import summarise
from tcl.model.build import TCLSizes, build_tcl
from tcl.model.clip import ClipSizes, build_clip, embed_images, patch_grid
from tcl.model.losses import normalise
from tcl.model.ranks import Ranks
from tcl.pairs.transforms import training_transform
from tcl.training.data import MEAN, STD
from tcl.training.machine import Machine, prepare
from tcl.training.meter import matrix_peak
from tcl.training.precision import Precision
from tcl.training.tasks import TCLTask

TINY = ClipSizes(
    embed_dim=64,
    image_size=64,
    patch_size=8,
    vision_width=64,
    vision_layers=4,
    vision_heads=2,
    context_length=32,
    text_width=64,
    text_layers=2,
    text_heads=2,
)
MODELS = {"paper": TCLSizes(ClipSizes()), "tiny": TCLSizes(TINY, frozen_blocks=3)}


class Bench:
    """One model on one device, and a batch of random pairs."""

    def __init__(self, sizes: TCLSizes, batch: int, layout: Machine, precision: str, device: torch.device) -> None:
        self.sizes, self.batch, self.device = sizes, batch, device
        self.precision = Precision(precision, device)
        torch.manual_seed(0)
        with device:
            clip = build_clip(sizes.clip).eval()
            model = build_tcl(clip, frozen_blocks=sizes.frozen_blocks, decoder_levels=sizes.decoder_levels)
        self.model = prepare(model, layout)
        self.micro_batch = min(layout.micro_batch or batch, batch)
        self.task = TCLTask(
            self.model,
            decoder_only_steps=0,
            global_batch=batch,
            ranks=Ranks(device=device),
            micro_batch=self.micro_batch,
        )
        self.optimizer = torch.optim.AdamW(self.task.parameters.values(), fused=True)
        side, length = sizes.clip.image_size, sizes.clip.context_length
        images = torch.randn(batch, 3, side, side, device=device)
        tokens = torch.randint(1, 40000, (batch, length), device=device)
        tokens[:, -1] = sizes.clip.vocab_size - 1
        noise = torch.rand(batch, *self.model.mask_grid(images), device=device)
        self.pairs = {"images": images, "tokens": tokens, "noise": noise}

    def step(self) -> None:
        """As in training, without the data."""
        self.optimizer.zero_grad(set_to_none=True)
        self.task.backward(self.pairs, 0, self.precision)
        self.optimizer.step()

    def parts(self) -> dict[str, Callable[[], Any]]:
        """The parts of a step on one micro-batch, the optimiser's on all."""
        images, tokens = self.pairs["images"][: self.micro_batch], self.pairs["tokens"]
        grid = patch_grid(self.model.clip.visual, images)
        with self.precision.autocast():
            texts = normalise(self.model.text_features(tokens))
            frozen = self.model.frozen_tokens(images)
            features = self.model.grounder(frozen, grid).detach().requires_grad_()
        masked = images.clone().requires_grad_()

        def summaries() -> Tensor:
            found = summarise(
                features,
                texts,
                scale=self.model.mask_scale,
                bias=self.model.mask_bias,
                positives=slice(0, len(images)),
                kernels=self.model.kernels,
            )
            return torch.stack([part.float().sum() for part in found]).sum()

        return {
            "text tower": self.forward(lambda: self.model.text_features(tokens[: self.micro_batch])),
            "frozen trunk": self.forward(lambda: self.model.frozen_tokens(images)),
            "grounder": self.forward(lambda: self.model.grounder(frozen, grid), backward=True),
            "losses": self.forward(summaries, backward=True),
            "masked tower": self.forward(
                lambda: embed_images(self.model.clip.visual, masked, self.model.block), backward=True
            ),
            "optimiser": self.optimizer.step,
        }

    def forward(self, work: Callable[[], Tensor], *, backward: bool = False) -> Callable[[], None]:
        """A pass in the bench's precision, and one back from the sum of what it gives."""

        def run() -> None:
            with self.precision.autocast():
                result = work()
            if backward:
                result.float().sum().backward()

        return run


def seconds(work: Callable[[], Any], device: torch.device, *, repeats: int) -> float:
    """Mean duration, after one run that is not counted."""
    work()
    synchronise(device)
    began = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronise(device)
    return (time.perf_counter() - began) / repeats


def synchronise(device: torch.device) -> None:
    """Wait for what a GPU has been given to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def loading_seconds(image_size: int, count: int = 64) -> float:
    """What decoding and augmenting one image of 512 x 384 pixels takes."""
    random = np.random.default_rng(0)
    small = PIL.Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((512, 384), PIL.Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    transform = training_transform("deit", size=image_size, mean=MEAN, std=STD)
    transform(file.getvalue(), (0,))
    began = time.perf_counter()
    for number in range(count):
        transform(file.getvalue(), (number,))
    return (time.perf_counter() - began) / count


def fitting(sizes: TCLSizes, batch: int, layout: Machine, precision: str, device: torch.device) -> Bench:
    """A bench whose step fits in memory."""
    micro_batch = min(layout.micro_batch or batch, batch)
    while True:
        try:
            bench = Bench(sizes, batch, replace(layout, micro_batch=micro_batch), precision, device)
            bench.step()
        except torch.cuda.OutOfMemoryError:
            if micro_batch == 1:
                raise
            micro_batch //= 2
        else:
            return bench
        gc.collect()
        torch.cuda.empty_cache()


def report(bench: Bench, peak: float, loading: float, repeats: int) -> str:
    """One row of the table."""
    device, cuda = bench.device, bench.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    whole = seconds(bench.step, device, repeats=repeats)
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f}" if cuda else "-"
    rate = flops.tcl_step(bench.sizes, global_batch=bench.batch, decoder_only=False).total * bench.batch / whole
    pieces = bench.batch / bench.micro_batch
    parts = {
        name: seconds(work, device, repeats=repeats) * (1 if name == "optimiser" else pieces)
        for name, work in bench.parts().items()
    }
    shares = " | ".join(f"{duration / sum(parts.values()):.0%}" for duration in parts.values())
    workers = loading * bench.batch / whole
    return (
        f"| {bench.batch} | {bench.micro_batch} | {whole:.3f} | {bench.batch / whole:.0f} | {rate / 1e12:.3g} "
        f"| {rate / peak:.0%} | {memory} | {shares} | {workers:.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="paper")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes, layout = MODELS[given.model], machine()
    peak = matrix_peak(device, Precision(given.precision, device).dtype)
    loading = loading_seconds(sizes.clip.image_size)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{name}, {given.precision}; matrix products reach {peak / 1e12:.3g} TFLOP/s. {layout}\n")
    parts = ("text tower", "frozen trunk", "grounder", "losses", "masked tower", "optimiser")
    head = ["batch", "micro-batch", "s a step", "pairs/s", "TFLOP/s", "of peak", "GB", *parts, "loading processes"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for batch in given.batches:
        print(report(fitting(sizes, batch, layout, given.precision, device), peak, loading, given.repeats), flush=True)


if __name__ == "__main__":
    main()
