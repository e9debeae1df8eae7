"""What every background threshold would score, counted in one pass over the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcl.datasets.benchmark import IGNORED

THRESHOLDS = np.round(np.arange(1, 100) / 100, 2)
"""0.01 to 0.99."""


def threshold_counts(
    scores: NDArray[np.float32], winners: NDArray[np.integer], labels: NDArray[np.integer], *, classes: int
) -> NDArray[np.int64]:
    """Pixels of one image by class and by how many thresholds they pass: int64 [3, classes, 1 + thresholds].

    scores, winners: [H, W], the best foreground logit of a pixel and its class. labels: [H, W], 255 does not count.
    The three are pixels that would be predicted as the class, those of them that are right, and those labelled so. Add
    up the counts of all images.
    """
    counted = labels != IGNORED
    passed = np.searchsorted(THRESHOLDS.astype(np.float32), scores[counted], side="left")
    winners, labels = winners[counted].astype(np.int64), labels[counted].astype(np.int64)
    bins = len(THRESHOLDS) + 1

    def histogram(which: NDArray[np.integer], passes: NDArray[np.integer]) -> NDArray[np.int64]:
        return np.bincount(which * bins + passes, minlength=classes * bins).reshape(classes, bins)

    right = winners == labels
    return np.stack([histogram(winners, passed), histogram(labels[right], passed[right]), histogram(labels, passed)])


def threshold_curve(counts: NDArray[np.int64], *, scored: Sequence[int]) -> list[float]:
    """mIoU in percent at each of `THRESHOLDS` from the summed counts; class 0 is the background.

    scored: the classes that count. One without any pixel in ground truth or prediction is left out of a mean.
    """
    predicted, right, labelled = counts

    def above(histogram: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pixels that pass the k-th threshold, for each k: [..., thresholds]."""
        return np.flip(np.flip(histogram, axis=-1).cumsum(axis=-1), axis=-1)[..., 1:]

    guessed, correct = above(predicted), above(right)
    pixels = labelled.sum(axis=0)
    guessed[0] = pixels.sum() - above(pixels)
    correct[0] = labelled[0].sum() - above(labelled[0])
    union = guessed + labelled.sum(axis=1, keepdims=True) - correct
    with np.errstate(invalid="ignore"):
        iou: NDArray[np.float64] = (correct / union)[list(scored)]
    return [float(value) * 100 for value in np.nanmean(iou, axis=0)]


def best_threshold(curve: Sequence[float]) -> dict[str, Any]:
    """The threshold with the highest mIoU, the lower one of equals, and that mIoU in percent."""
    index = int(np.argmax(curve))
    return {"bg_thresh": float(THRESHOLDS[index]), "mIoU": curve[index]}
