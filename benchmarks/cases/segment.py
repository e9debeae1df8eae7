"""From an image to its label map, end to end, with ViT-B/16; and what comes after the model alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.cases.model import window_flops
from benchmarks.measure import DEVICE, PRECISIONS, Case, suffix
from benchmarks.random_model import embeddings, picture, segmenter
from tcl.datasets import benchmark as benchmarks
from tcl.datasets.benchmark import prompted_classes
from tcl.datasets.mmseg import open_dataset
from tcl.inference.evaluate import Head, evaluate_heads, segment
from tcl.inference.masks import InBfloat16
from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import MASKS, PixelLogits, model_input
from tests.plain import segment as plain

WIDTH, HEIGHT, WINDOWS = 500, 375, 2


def cases(full: bool) -> Iterator[Case]:
    """An image of PASCAL VOC's usual size, which makes two windows of 448 x 448 pixels; smaller ones for the growth."""
    settings = InferenceSettings()
    for dtype, (classes, pamr) in product(PRECISIONS, ((20, True), (171, True), (20, False))[: None if full else 2]):
        yield image_case(classes, settings.but(pamr=pamr), dtype)
    yield sweep(settings)
    yield labels()

    small = settings.but(short_side=224, window=224, stride=112)
    image = picture(224, 224)
    for classes in (1, 60, 171):
        work = partial(segment, segmenter(), image, embeddings(classes), settings=small, background=False)
        size = f"{classes} classes"
        yield Case("one window of 224 x 224", size, work, None, line="one window by classes", count=classes)
    for count in (1, 2, 4, 8) if full else (1, 2, 4):
        windows = torch.randn(count, 3, 224, 224, device=DEVICE)
        yield Case(
            "towers and decoder",
            f"{count} x 224 x 224",
            partial(segmenter().window_features, windows, maskclip=True),
            None,
            flops=count * window_flops(224),
            line="towers and decoder by windows in a batch",
            count=count,
        )
    for count in (1, 2, 4):
        yield Case(
            "images",
            f"{count} of 224 x 224, 20 classes",
            partial(several, [image] * count, embeddings(20), small),
            None,
            line="segmentation by images",
            count=count,
        )


def image_case(classes: int, settings: InferenceSettings, dtype: torch.dtype) -> Case:
    """One image against the plain program; in bfloat16, both do towers and decoder in it."""
    model, image, words = segmenter(), picture(WIDTH, HEIGHT), embeddings(classes)
    half = dtype == torch.bfloat16
    own = InBfloat16(model) if half else model

    def ours() -> Tensor:
        return torch.from_numpy(segment(own, image, words, settings=settings, background=False))

    def theirs() -> Tensor:
        inputs = model_input(image, settings, DEVICE)
        size = (HEIGHT, WIDTH)
        return plain.segment(model, inputs, words, settings, background=False, size=size, half=half).cpu()

    return Case(
        "one image",
        f"{WIDTH} x {HEIGHT}, {classes} classes, {'PAMR' if settings.pamr else 'no PAMR'}{suffix(dtype)}",
        ours,
        theirs,
        flops=WINDOWS * window_flops(448),
        dtype=dtype,
    )


def several(images: list[Any], words: Tensor, settings: InferenceSettings) -> None:
    """Images one after the other, as an evaluation takes them."""
    for image in images:
        segment(segmenter(), image, words, settings=settings, background=False)


def sweep(settings: InferenceSettings) -> Case:
    """Ten background thresholds on one labelled image, against a single one."""
    folder = TemporaryDirectory()
    root, benchmark = Path(folder.name), benchmarks.load("voc")
    for place, content in (("JPEGImages/a.jpg", picture(WIDTH, HEIGHT)), ("SegmentationClass/a.png", None)):
        path = root / "VOCdevkit/VOC2012" / place
        path.parent.mkdir(parents=True)
        labels = np.random.default_rng(0).integers(0, 21, (HEIGHT, WIDTH), dtype=np.uint8)
        cv2.imwrite(str(path), labels if content is None else content)
    split = root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    split.parent.mkdir(parents=True)
    split.write_text("a\n")
    open_dataset(benchmark, root)[0]  # imports take seconds the first time, and so do prompts
    segmenter().class_embeddings(prompted_classes(benchmark, None), settings.templates)

    def score(thresholds: int) -> None:
        assert folder.name  # kept as long as the case
        heads = [Head(settings.but(bg_thresh=(1 + index) / 20)) for index in range(thresholds)]
        evaluate_heads(segmenter(), benchmark, root, heads=heads)

    size = "one image, 21 classes, PAMR"
    return Case("ten thresholds, beside one", size, partial(score, 10), partial(score, 1), floor=True)


def labels() -> Case:
    """From logits at the model's size to channels at the image's."""
    logits = torch.rand(1, 171, 448, 597, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    parts = logits.split(MASKS if DEVICE.type == "cpu" else 171, dim=1)

    def theirs() -> Tensor:
        resized = torch.nn.functional.interpolate(logits, size=(HEIGHT, WIDTH), mode="bilinear")
        return resized.softmax(dim=1).argmax(dim=1)[0].cpu()

    return Case(
        "label map",
        f"171 classes, 597 x 448 to {WIDTH} x {HEIGHT}",
        lambda: torch.from_numpy(PixelLogits(parts, (HEIGHT, WIDTH)).chosen()),
        theirs,
        moved=logits.nbytes + 2 * 4 * 171 * HEIGHT * WIDTH,
    )
