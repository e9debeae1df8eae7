"""One model on one benchmark: label maps, areas over all ranks, scores (paper, Sec. 4.1)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tcl.datasets.benchmark import Benchmark, Sample, prompted_classes
from tcl.errors import TCLError
from tcl.inference.masks import SegmentationModel
from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import PixelLogits, SlidingMasks, model_input
from tcl.inference.thresholds import THRESHOLDS, best_threshold, threshold_counts, threshold_curve
from tcl.model.ranks import Ranks
from tcl.progress import progress

if TYPE_CHECKING:
    from tcl.datasets.mmseg import LabelledImage

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Pictures:
    """Where to keep overlay pictures of the first `count` images."""

    folder: Path
    count: int


@dataclass(frozen=True)
class Head:
    """One of the label maps that a model makes of an image: under which settings, and where pictures and maps go.

    part: of the masks, for a model that makes several of each class, one after the other.
    """

    settings: InferenceSettings
    part: int = 0
    pictures: Pictures | None = None
    maps: Path | None = None

    @property
    def view(self) -> tuple[int, ...]:
        """What decides how the model sees an image."""
        settings = self.settings
        return settings.short_side, settings.long_side, settings.window, settings.stride

    @property
    def masks(self) -> InferenceSettings:
        """The settings less what is decided after the masks are made."""
        return replace(self.settings, bg_thresh=0.0, bg_thresh_with_pamr=0.0, bg_thresh_without_pamr=0.0)


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
    inputs = model_input(image, settings, embeddings.device)
    masks = SlidingMasks(model, inputs, {settings.templates: embeddings}, [settings]).under(settings)
    logits = PixelLogits(masks, (image.shape[0], image.shape[1]))
    return logits.chosen(settings.background_threshold if background else None)


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
    heads = [Head(settings, pictures=pictures, maps=maps)]
    return evaluate_heads(model, benchmark, root, heads=heads, only=only, ranks=ranks)[0]


def evaluate_heads(
    model: SegmentationModel,
    benchmark: Benchmark,
    root: Path,
    *,
    heads: Sequence[Head],
    only: Sequence[str] | None = None,
    ranks: Ranks | None = None,
) -> list[Outcome]:
    """Score a model on a benchmark under several settings in one pass over the images; the rest is as in `evaluate`.

    Each outcome is what its settings alone would give. The towers run once for each size, window and stride, prompts
    are embedded once for each set of templates, PAMR's affinity is shared and more iterations go on from fewer.
    """
    from tcl.datasets.mmseg import open_dataset

    ranks = ranks or Ranks()
    dataset = open_dataset(benchmark, root)
    for head in heads:
        if head.maps:
            _check_names(dataset.samples, head.maps)
    names = prompted_classes(benchmark, only)
    tallies = [Tally(benchmark, names, head, len(dataset)) for head in heads]
    embeddings = {name: model.class_embeddings(names, name) for name in {head.settings.templates for head in heads}}
    began = time.monotonic()
    own = range(ranks.rank, len(dataset), ranks.size)
    for index in progress(own, title=benchmark.key, unit="image", total=len(own), shown=ranks.first):
        loaded = dataset[index]
        for sharing, logits in _logits(model, loaded, embeddings, tallies):
            for tally in sharing:
                tally.add(logits, loaded, index, dataset.samples[index].labels)
            if benchmark.background:
                passed = sharing[0].threshold_counts(logits, loaded)
                for tally in sharing:
                    tally.thresholds += passed
    seconds = (time.monotonic() - began) / len(heads)
    return [Outcome(tally.result(ranks), seconds) for tally in tallies]


def _logits(
    model: SegmentationModel, loaded: LabelledImage, embeddings: Mapping[str, Tensor], tallies: Sequence[Tally]
) -> Iterator[tuple[list[Tally], PixelLogits]]:
    """Tallies that share logits of an image, with them."""
    device = next(iter(embeddings.values())).device
    size = (loaded.labels.shape[0], loaded.labels.shape[1])
    for _, alike in _grouped(tallies, lambda tally: tally.head.view):
        settings = [tally.head.settings for tally in alike]
        sliding = SlidingMasks(model, model_input(loaded.image, settings[0], device), embeddings, settings)
        ascending = sorted(alike, key=lambda tally: tally.head.settings.pamr_iterations)
        for shared, theirs in _grouped(ascending, lambda tally: tally.head.masks):
            for part, each in _grouped(theirs, lambda tally: tally.head.part):
                classes = len(each[0].names)
                channels = slice(part * classes, (part + 1) * classes)
                yield each, PixelLogits(sliding.under(shared, channels), size)


def _grouped(tallies: Sequence[Tally], key: Callable[[Tally], Key]) -> Iterator[tuple[Key, list[Tally]]]:
    """Tallies of the same key together, in the order in which the keys first occur."""
    groups: dict[Key, list[Tally]] = {}
    for tally in tallies:
        groups.setdefault(key(tally), []).append(tally)
    yield from groups.items()


class Tally:
    """What is counted of one head over the images of a benchmark."""

    def __init__(self, benchmark: Benchmark, names: Sequence[str], head: Head, images: int) -> None:
        self.benchmark, self.names, self.head, self.images = benchmark, names, head, images
        self.scored = [benchmark.classes[0], *names] if benchmark.background else list(names)
        self.channels = np.array([benchmark.classes.index(name) for name in self.scored])
        classes = len(benchmark.classes)
        self.areas = np.zeros((4, classes), dtype=np.int64)
        self.confusion = np.zeros((classes, classes), dtype=np.int64)
        self.thresholds = np.zeros((3, classes, len(THRESHOLDS) + 1), dtype=np.int64)

    def add(self, logits: PixelLogits, loaded: LabelledImage, index: int, file: Path) -> None:
        """Count one image, the index-th, but for the thresholds; raises TCLError that names `file` for bad labels."""
        from tcl.datasets.labels import write_labels
        from tcl.inference.metrics import areas, confusion

        benchmark, labels, pictures = self.benchmark, loaded.labels, self.head.pictures
        classes = len(benchmark.classes)
        background = self.head.settings.background_threshold if benchmark.background else None
        prediction = self.channels[logits.chosen(background)]
        self.areas += _areas_of(areas, prediction, labels, benchmark, file)
        self.confusion += confusion(prediction, labels, classes=classes)
        if self.head.maps:
            write_labels(self.head.maps / f"{loaded.name}.png", prediction.astype(np.uint8))
        if pictures and index < pictures.count:
            from tcl.inference.overlays import write_overlay

            path = pictures.folder / f"{loaded.name}.png"
            write_overlay(path, loaded.image, labels, prediction, benchmark.classes, benchmark.background)

    def threshold_counts(self, logits: PixelLogits, loaded: LabelledImage) -> NDArray[np.int64]:
        """What one image with good labels adds to `thresholds`: the same whatever the head's own threshold is."""
        scores, winners = logits.best.cpu().numpy(), self.channels[1:][logits.channel.cpu().numpy()]
        return threshold_counts(scores, winners, loaded.labels, classes=len(self.benchmark.classes))

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
            "settings": self.head.settings.in_force(background=benchmark.background),
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
