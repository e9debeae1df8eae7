"""The threshold curve is what an evaluation at each threshold would score; confusions are counted by pixel."""

import numpy as np
import pytest

from tcl.inference.metrics import areas, confusion, frequent_confusions, summarise
from tcl.inference.thresholds import THRESHOLDS, best_threshold, threshold_counts, threshold_curve

NAMES = ("background", "cat", "dog", "boat", "never asked for")
SCORED = [0, 1, 2, 3]


def test_the_curve_is_an_evaluation_at_each_threshold() -> None:
    draws = np.random.default_rng(0)
    pictures = [
        (
            draws.choice([draws.random((6, 7)), np.full((6, 7), 0.3)]).astype(np.float32),
            draws.integers(1, 4, (6, 7)),
            draws.choice([0, 1, 2, 4, 255], (6, 7)).astype(np.uint8),
        )
        for _ in range(5)
    ]
    counts = sum(threshold_counts(*picture, classes=5) for picture in pictures)
    curve = threshold_curve(np.asarray(counts), scored=SCORED)
    for threshold, found in zip(THRESHOLDS, curve, strict=True):
        total = sum(
            areas(np.where(scores > np.float32(threshold), winners, 0), labels, classes=5)
            for scores, winners, labels in pictures
        )
        assert found == pytest.approx(summarise(np.asarray(total), NAMES, only=NAMES[:4]).mIoU)


def test_the_best_threshold_is_the_lower_one_of_equals() -> None:
    curve = [0.0] * 99
    curve[40] = curve[41] = 50.0
    assert best_threshold(curve) == {"bg_thresh": 0.41, "mIoU": 50.0}


def test_confusions_are_the_most_frequent_predictions() -> None:
    labels = np.array([[1, 1, 1, 2], [1, 1, 255, 0]], dtype=np.uint8)
    prediction = np.array([[2, 2, 1, 2], [2, 3, 1, 0]])
    pixels = confusion(prediction, labels, classes=5)
    assert pixels.sum() == 7
    assert frequent_confusions(pixels, NAMES, only=NAMES[1:4]) == {
        "cat": {"dog": 3, "cat": 1, "boat": 1},
        "dog": {"dog": 1},
    }
