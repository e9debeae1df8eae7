"""One model on one benchmark: label maps, areas over all ranks, scores (paper, Sec. 4.1)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tcl.datasets.benchmark import Benchmark, Sample
from tcl.errors import TCLError
from tcl.inference.masks import SegmentationModel
from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import label_map, model_input, sliding_logits
from tcl.model.ranks import Ranks
from tcl.progress import progress


@dataclass(frozen=True)
class Pictures:
    """Where to keep overlay pictures of the first `count` images."""

    folder: Path
    count: int


@dataclass(frozen=True)
class Outcome:
    """Scores of one benchmark as plain values in a stable order, and the seconds that segmentation took."""

    result: dict[str, Any]
    seconds: float


def prompted_classes(benchmark: Benchmark, only: Sequence[str] | None = None) -> list[str]:
    """The class names that become prompts: all but the background, or those of `only`, in the benchmark's order.

    Raises TCLError if a name in `only` is not one of the benchmark's.
    """
    foreground = benchmark.classes[1:] if benchmark.background else benchmark.classes
    if only is None:
        return list(foreground)
    if unknown := [name for name in only if name not in foreground]:
        raise TCLError(f"benchmarks.{benchmark.key}.classes: {', '.join(unknown)} is not among its classes.")
    return [name for name in foreground if name in only]


def segment(
    model: SegmentationModel,
    image: NDArray[np.uint8],
    embeddings: Tensor,
    *,
    settings: InferenceSettings,
    background: bool,
) -> NDArray[np.int64]:
    """Channel indices [H, W] of an image, uint8 BGR [H, W, 3]; channel 0 is the background if there is one."""
    inputs = model_input(image, settings).to(embeddings.device)
    logits = sliding_logits(model, inputs, embeddings, settings=settings, background=background)
    return label_map(logits, (image.shape[0], image.shape[1]))


def evaluate(
    model: SegmentationModel,
    benchmark: Benchmark,
    root: Path,
    *,
    settings: InferenceSettings,
    only: Sequence[str] | None = None,
    ranks: Ranks | None = None,
    pictures: Pictures | None = None,
    maps: Path | None = None,
) -> Outcome:
    """Score a model on a benchmark under a data root, its images shared out over the ranks; the same for any number.

    only: names of the classes to prompt and score, the background aside; None takes all of them. maps: a folder for
    each image's predicted class indices, as `<name>.png` of one channel.
    """
    from tcl.datasets.labels import write_labels
    from tcl.datasets.mmseg import open_dataset
    from tcl.inference.metrics import areas, summarise

    ranks = ranks or Ranks()
    dataset = open_dataset(benchmark, root)
    if maps:
        _check_names(dataset.samples, maps)
    names = prompted_classes(benchmark, only)
    scored = [benchmark.classes[0], *names] if benchmark.background else names
    channels = np.array([benchmark.classes.index(name) for name in scored])
    embeddings = model.class_embeddings(names, settings.templates)
    total = np.zeros((4, len(benchmark.classes)), dtype=np.int64)
    began = time.monotonic()
    own = range(ranks.rank, len(dataset), ranks.size)
    for index in progress(own, title=benchmark.key, unit="image", total=len(own), shown=ranks.first):
        name, image, labels = dataset[index]
        predicted = segment(model, image, embeddings, settings=settings, background=benchmark.background)
        prediction = channels[predicted]
        total += _areas_of(areas, prediction, labels, benchmark, dataset.samples[index].labels)
        if maps:
            write_labels(maps / f"{name}.png", prediction.astype(np.uint8))
        if pictures and index < pictures.count:
            from tcl.inference.overlays import write_overlay

            write_overlay(
                pictures.folder / f"{name}.png", image, labels, prediction, benchmark.classes, benchmark.background
            )
    seconds = time.monotonic() - began
    total = np.sum(ranks.collect(total), axis=0)
    scores = summarise(total, benchmark.classes, only=scored)
    result = {
        "benchmark": benchmark.key,
        "mIoU": scores.mIoU,
        "mAcc": scores.mAcc,
        "aAcc": scores.aAcc,
        "IoU": scores.iou,
        "images": len(dataset),
        "settings": _settings_in_force(settings, benchmark),
    }
    return Outcome(result, seconds)


def _check_names(samples: Sequence[Sample], folder: Path) -> None:
    """One file each in `folder` needs one name each."""
    repeated = [name for name, count in Counter(sample.name for sample in samples).items() if count > 1]
    if repeated:
        raise TCLError(f"{folder}: label maps go by the images' names, of which several are alike: {repeated[:20]}.")


def _areas_of(
    areas: Any, prediction: NDArray[np.int64], labels: NDArray[np.uint8], benchmark: Benchmark, file: Path
) -> NDArray[np.int64]:
    try:
        counted: NDArray[np.int64] = areas(prediction, labels, classes=len(benchmark.classes))
    except TCLError as error:
        raise TCLError(f"{file}: {error}") from error
    return counted


def _settings_in_force(settings: InferenceSettings, benchmark: Benchmark) -> dict[str, Any]:
    """What decided the result: the threshold resolved, and only where there is a background."""
    values = settings.to_dict()
    for name in ("bg_thresh", "bg_thresh_with_pamr", "bg_thresh_without_pamr"):
        del values[name]
    values["bg_thresh"] = settings.background_threshold if benchmark.background else None
    return values
