"""Scores against the official evaluation's numbers, mmsegmentation's own summary and a plain count."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tcl.datasets.benchmark import load
from tcl.errors import TCLError
from tcl.inference.metrics import areas, summarise

DATA = Path(__file__).parents[1] / "data"
NAMES = ("cat", "dog", "bird")


@pytest.mark.parametrize("key", ["voc", "context59"])
def test_against_reference_scores(key: str) -> None:
    classes = load(key).classes
    with np.load(DATA / f"scores_{key}.npz") as arrays:
        reference = dict(arrays)
    images = [name.removeprefix("labels/") for name in reference if name.startswith("labels/")]
    pairs = [(reference[f"prediction/{name}"], reference[f"labels/{name}"]) for name in images]
    total = np.sum([areas(prediction, labels, classes=len(classes)) for prediction, labels in pairs], axis=0)
    np.testing.assert_array_equal(total, reference["areas"])
    scores = summarise(total, classes)
    iou = np.array([np.nan if value is None else value / 100 for value in scores.iou.values()])
    np.testing.assert_allclose(iou, reference["IoU"], rtol=1e-6, atol=1e-9)  # the reference is in single precision
    np.testing.assert_allclose(np.round(scores[:3], 2), reference["rounded"], atol=1e-9)


@pytest.mark.parametrize("key", ["voc", "context59"])
def test_rounding_gives_the_summary_of_mmsegmentation(key: str) -> None:
    from mmseg.evaluation import IoUMetric

    classes = load(key).classes
    metric = IoUMetric()
    metric.dataset_meta = {"classes": classes}
    total = np.zeros((4, len(classes)), dtype=np.int64)
    with np.load(DATA / f"scores_{key}.npz") as arrays:
        for name in (name for name in arrays.files if name.startswith("labels/")):
            labels, prediction = arrays[name], arrays[name.replace("labels", "prediction")]
            total += areas(prediction, labels, classes=len(classes))
            sample = {"pred_sem_seg": prediction.astype(np.int64), "gt_sem_seg": labels.astype(np.int64)}
            tensors = {key: {"data": torch.from_numpy(value)[None]} for key, value in sample.items()}
            metric.process({}, [tensors])
    official = metric.compute_metrics(metric.results)
    scores = summarise(total, classes)
    for name in ("mIoU", "mAcc", "aAcc"):
        assert round(getattr(scores, name), 2) == pytest.approx(official[name], abs=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.data(), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), st.integers(1, 7))
def test_areas_equal_a_plain_count(data: st.DataObject, shape: tuple[int, int], classes: int) -> None:
    prediction = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, classes - 1)))
    labels = data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([*range(classes), 255])))
    counted = areas(prediction, labels, classes=classes)
    assert counted.dtype == np.int64
    scored = labels != 255
    for index in range(classes):
        ours, truth = (prediction == index) & scored, labels == index
        assert list(counted[:, index]) == [(ours & truth).sum(), (ours | truth).sum(), ours.sum(), truth.sum()]


def test_tensors_and_arrays_give_the_same_areas() -> None:
    prediction, labels = np.array([[0, 1], [2, 2]]), np.array([[0, 1], [255, 1]], dtype=np.uint8)
    from_tensors = areas(torch.from_numpy(prediction), torch.from_numpy(labels), classes=3)
    np.testing.assert_array_equal(from_tensors, areas(prediction, labels, classes=3))
    np.testing.assert_array_equal(from_tensors[0], [1, 1, 0])


def test_a_class_that_occurs_nowhere_has_no_score_and_does_not_count() -> None:
    counted = areas(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 1]]), classes=3)
    scores = summarise(counted, NAMES)
    assert scores.iou == {"cat": pytest.approx(200 / 3), "dog": pytest.approx(50), "bird": None}
    assert scores.mIoU == pytest.approx((200 / 3 + 50) / 2)
    assert scores.mAcc == pytest.approx((200 / 3 + 100) / 2)
    assert scores.aAcc == pytest.approx(75)


def test_only_some_classes_are_scored() -> None:
    counted = areas(np.array([[0, 1, 1, 2]]), np.array([[0, 1, 2, 2]]), classes=3)
    scores = summarise(counted, NAMES, only=["dog", "cat", "dog"])
    assert scores.iou == {"dog": pytest.approx(50), "cat": pytest.approx(100)}
    assert scores.mIoU == pytest.approx(75)
    assert scores.aAcc == pytest.approx(100)


@pytest.mark.parametrize(
    ("prediction", "labels", "message"),
    [
        ([[0, 3]], [[0, 0]], "prediction: there are 3 classes, 0 to 2, but class 3 occurs"),
        ([[0, 0]], [[0, 7]], "labels: there are 3 classes, 0 to 2, but class 7 occurs"),
        ([[0, 0]], [[0, -1]], "labels: .* class -1 occurs"),
        ([[0, 0]], [[0], [0]], "differ in shape"),
    ],
)
def test_what_cannot_be_counted(prediction: list[list[int]], labels: list[list[int]], message: str) -> None:
    with pytest.raises(TCLError, match=message):
        areas(np.array(prediction), np.array(labels), classes=3)


def test_what_cannot_be_summarised() -> None:
    counted = areas(np.array([[0, 1]]), np.array([[0, 0]]), classes=3)
    with pytest.raises(TCLError, match=r"shape \(4, 2\)"):
        summarise(counted, NAMES[:2])
    with pytest.raises(TCLError, match="class 'cow' is not known"):
        summarise(counted, NAMES, only=["cow"])
    with pytest.raises(TCLError, match="no pixel"):
        summarise(counted, NAMES, only=["bird"])
