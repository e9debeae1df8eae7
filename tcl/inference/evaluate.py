"""One model on one benchmark: label maps, areas over all ranks, scores (paper, Sec. 4.1)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tcl.datasets.benchmark import Benchmark, Sample, prompted_classes
from tcl.errors import TCLError
from tcl.inference.masks import SegmentationModel
from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import (
    best_foreground,
    label_map,
    model_input,
    sliding_logits,
    sliding_masks,
    with_background,
)
from tcl.inference.thresholds import THRESHOLDS, best_threshold, threshold_counts, threshold_curve
from tcl.model.ranks import Ranks
from tcl.progress import progress

if TYPE_CHECKING:
    from tcl.datasets.mmseg import LabelledImage


@dataclass(frozen=True)
class Pictures:
    """Where to keep overlay pictures of the first `count` images."""

    folder: Path
    count: int


@dataclass(frozen=True)
class Head:
    """One of the maps that a model makes of an image: its background threshold, and where pictures and maps go."""

    bg_thresh: float
    pictures: Pictures | None = None
    maps: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Scores of one benchmark as plain values in a stable order, and the seconds that segmentation took."""

    result: dict[str, Any]
    seconds: float


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
    heads = [Head(settings.background_threshold, pictures, maps)]
    return evaluate_heads(model, benchmark, root, settings=settings, heads=heads, only=only, ranks=ranks)[0]


def evaluate_settings(
    model: SegmentationModel,
    benchmark: Benchmark,
    root: Path,
    *,
    settings: Sequence[InferenceSettings],
    only: Sequence[str] | None = None,
    ranks: Ranks | None = None,
) -> list[Outcome]:
    """Score a model on a benchmark under each of several settings; the rest is as in `evaluate`."""
    outcomes = []
    for each in settings:
        model.settings = each
        outcomes.append(evaluate(model, benchmark, root, settings=each, only=only, ranks=ranks))
    return outcomes


def evaluate_heads(
    model: SegmentationModel,
    benchmark: Benchmark,
    root: Path,
    *,
    settings: InferenceSettings,
    heads: Sequence[Head],
    only: Sequence[str] | None = None,
    ranks: Ranks | None = None,
) -> list[Outcome]:
    """Score a model that gives several masks of each class, one a head, in one pass over the images.

    The heads differ in nothing but their masks and thresholds; the rest is as in `evaluate`.
    """
    from tcl.datasets.mmseg import open_dataset

    ranks = ranks or Ranks()
    dataset = open_dataset(benchmark, root)
    for head in heads:
        if head.maps:
            _check_names(dataset.samples, head.maps)
    names = prompted_classes(benchmark, only)
    tallies = [Tally(benchmark, names, settings, head, len(dataset)) for head in heads]
    embeddings = model.class_embeddings(names, settings.templates)
    began = time.monotonic()
    own = range(ranks.rank, len(dataset), ranks.size)
    for index in progress(own, title=benchmark.key, unit="image", total=len(own), shown=ranks.first):
        loaded = dataset[index]
        inputs = model_input(loaded.image, settings).to(embeddings.device)
        masks = sliding_masks(model, inputs, embeddings, settings=settings)
        for tally, own_masks in zip(tallies, masks.chunk(len(heads), dim=1), strict=True):
            tally.add(own_masks, loaded, index, dataset.samples[index].labels)
    seconds = (time.monotonic() - began) / len(heads)
    return [Outcome(tally.result(ranks), seconds) for tally in tallies]


class Tally:
    """What is counted of one head over the images of a benchmark."""

    def __init__(
        self, benchmark: Benchmark, names: Sequence[str], settings: InferenceSettings, head: Head, images: int
    ) -> None:
        self.benchmark, self.head, self.images = benchmark, head, images
        self.settings = replace(settings, bg_thresh=head.bg_thresh)
        self.scored = [benchmark.classes[0], *names] if benchmark.background else list(names)
        self.channels = np.array([benchmark.classes.index(name) for name in self.scored])
        classes = len(benchmark.classes)
        self.areas = np.zeros((4, classes), dtype=np.int64)
        self.confusion = np.zeros((classes, classes), dtype=np.int64)
        self.thresholds = np.zeros((3, classes, len(THRESHOLDS) + 1), dtype=np.int64)

    def add(self, masks: Tensor, loaded: LabelledImage, index: int, file: Path) -> None:
        """Count one image, the index-th; masks: [1, N, H', W']. Raises TCLError that names `file` for bad labels."""
        from tcl.datasets.labels import write_labels
        from tcl.inference.metrics import areas, confusion

        benchmark, labels, pictures = self.benchmark, loaded.labels, self.head.pictures
        classes, size = len(benchmark.classes), (labels.shape[0], labels.shape[1])
        logits = with_background(masks, self.settings) if benchmark.background else masks
        prediction = self.channels[label_map(logits, size)]
        self.areas += _areas_of(areas, prediction, labels, benchmark, file)
        self.confusion += confusion(prediction, labels, classes=classes)
        if benchmark.background:
            best, channel = best_foreground(masks, size)
            self.thresholds += threshold_counts(best, self.channels[1:][channel], labels, classes=classes)
        if self.head.maps:
            write_labels(self.head.maps / f"{loaded.name}.png", prediction.astype(np.uint8))
        if pictures and index < pictures.count:
            from tcl.inference.overlays import write_overlay

            path = pictures.folder / f"{loaded.name}.png"
            write_overlay(path, loaded.image, labels, prediction, benchmark.classes, benchmark.background)

    def result(self, ranks: Ranks) -> dict[str, Any]:
        """The result of all ranks as plain values in a stable order."""
        from tcl.inference.metrics import frequent_confusions, summarise

        benchmark = self.benchmark
        areas, confusion, thresholds = (
            np.sum(ranks.collect(counts), axis=0) for counts in (self.areas, self.confusion, self.thresholds)
        )
        scores = summarise(areas, benchmark.classes, only=self.scored)
        result: dict[str, Any] = {
            "benchmark": benchmark.key,
            "mIoU": scores.mIoU,
            "mAcc": scores.mAcc,
            "aAcc": scores.aAcc,
            "IoU": scores.iou,
            "images": self.images,
            "settings": self.settings.in_force(background=benchmark.background),
            "pixels": {name: int(areas[3][index]) for name, index in zip(self.scored, self.channels, strict=True)},
            "confusion": frequent_confusions(confusion, benchmark.classes, only=self.scored),
        }
        if benchmark.background:
            curve = threshold_curve(thresholds, scored=self.channels.tolist())
            result["thresholds"] = {"mIoU": [round(value, 3) for value in curve], "best": best_threshold(curve)}
        return result


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
