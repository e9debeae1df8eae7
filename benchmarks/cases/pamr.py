"""PAMR of one window of 448 x 448 pixels on ViT-B/16's mask grid, the affinity included."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.measure import DEVICE, Case
from tcl.inference.pamr import pamr
from tcl.inference.settings import InferenceSettings
from tests.plain.pamr import by_slices
from tests.plain.pamr import pamr as plain_pamr

GRID, SIDE = 112, 448


def cases(full: bool) -> Iterator[Case]:
    """20 and 171 classes, and others to see the time grow."""
    settings = InferenceSettings()
    degree, iterations = 8 * len(settings.pamr_dilations), settings.pamr_iterations
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(1, 3, SIDE // 16, SIDE // 16, generator=generator)
    image = torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic").to(DEVICE)
    for classes in (1, 20, 60, 171):
        masks = torch.rand(1, classes, GRID, GRID, generator=generator).to(DEVICE)
        arguments: dict[str, Any] = {"iterations": iterations, "dilations": settings.pamr_dilations}
        compared = full or classes in (20, 171)
        yield Case(
            "PAMR",
            f"{classes} classes, {GRID} x {GRID}",
            partial(pamr, image, masks, **arguments),
            partial(plain_pamr, image, masks, **arguments) if compared else None,
            flops=2 * degree * iterations * masks.numel(),
            moved=iterations * (2 * masks.nbytes + degree * GRID**2 * 8),
            line="PAMR by classes",
            count=classes,
        )
        if full or classes == 20:
            yield Case(
                "PAMR, against copied slices",
                f"{classes} classes, {GRID} x {GRID}",
                partial(pamr, image, masks, **arguments),
                partial(plain_pamr, image, masks, neighbours=by_slices, **arguments),
            )
