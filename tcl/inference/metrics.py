"""Intersection over union and accuracy, as mmsegmentation computes them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcl.datasets.benchmark import IGNORED
from tcl.errors import TCLError
from tcl.mends import mend_torchvision

if TYPE_CHECKING:
    import torch


class Scores(NamedTuple):
    """Scores of a benchmark in percent, unrounded.

    `mIoU` is the mean of `iou` over the classes that occur in ground truth or prediction; the others have None.
    `mAcc` is the mean over the classes in the ground truth of the share of their pixels that are found, `aAcc` the
    share of all labelled pixels that are right.
    """

    mIoU: float
    mAcc: float
    aAcc: float
    iou: dict[str, float | None]


def areas(
    prediction: "NDArray[Any] | torch.Tensor", labels: "NDArray[Any] | torch.Tensor", *, classes: int
) -> NDArray[np.int64]:
    """Pixels of one image by class: intersection, union, prediction and ground truth, int64 [4, classes].

    `prediction` and `labels` are integer [H, W]; a pixel whose label is 255 does not count. Add up the areas of all
    images, then `summarise` them. Where other processes keep the cores busy, start Python with OMP_WAIT_POLICY=PASSIVE
    or OMP_NUM_THREADS=1: threads that spin while they wait for each other make this several times slower.

    Raises:
        TCLError: the two differ in shape, or one holds a class below 0 or above `classes` - 1.
    """
    mend_torchvision()
    import torch
    from mmseg.evaluation import IoUMetric

    predicted, truth = torch.as_tensor(prediction), torch.as_tensor(labels)
    if predicted.shape != truth.shape:
        raise TCLError(f"prediction {tuple(predicted.shape)} and labels {tuple(truth.shape)} differ in shape.")
    _check_range("prediction", predicted, classes=classes)
    _check_range("labels", truth[truth != IGNORED], classes=classes)
    counted = IoUMetric.intersect_and_union(
        predicted.to(torch.int64), truth.to(predicted.device, torch.int64), classes, IGNORED
    )
    counts: NDArray[np.int64] = torch.stack(counted).to(torch.int64).numpy()
    return counts


def _check_range(name: str, values: "torch.Tensor", *, classes: int) -> None:
    """mmsegmentation would leave such a pixel out of some areas and count it in others."""
    if values.numel() == 0:
        return
    low, high = (int(value) for value in values.aminmax())
    if low < 0 or high >= classes:
        raise TCLError(
            f"{name}: there are {classes} classes, 0 to {classes - 1}, but class {low if low < 0 else high} occurs. "
            "The label maps belong to another benchmark, or have not been converted."
        )


def summarise(areas: NDArray[Any], names: Sequence[str], *, only: Sequence[str] | None = None) -> Scores:
    """The scores that follow from the summed areas [4, classes] of all images.

    `names` are those of the classes. With `only`, the means and the overall accuracy are taken over the classes of
    these names; pixels of any other class then count against a class predicted there, and no more.

    Raises:
        TCLError: the areas do not fit the names, a name in `only` is not known, or no pixel of a class is labelled.
    """
    chosen = list(range(len(names))) if only is None else [_index(name, names) for name in dict.fromkeys(only)]
    if areas.shape != (4, len(names)):
        raise TCLError(f"areas must have shape (4, {len(names)}), one column a class, got {areas.shape}.")
    selected = np.asarray(areas, dtype=np.float64)[:, chosen]
    if not selected[3].sum() > 0:
        raise TCLError("no pixel of the scored classes is labelled in the ground truth: there is nothing to score.")
    metrics = _ratios(selected)
    iou = {names[index]: _percent(value) for index, value in zip(chosen, metrics["IoU"], strict=True)}
    means = {name: float(np.nanmean(values)) * 100 for name, values in metrics.items()}
    return Scores(mIoU=means["IoU"], mAcc=means["Acc"], aAcc=means["aAcc"], iou=iou)


def _ratios(areas: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """`aAcc`, and `IoU` and `Acc` of every class as fractions; not a number where the denominator is zero."""
    mend_torchvision()
    import torch
    from mmseg.evaluation import IoUMetric

    ratios: dict[str, NDArray[np.float64]] = IoUMetric.total_area_to_metrics(*torch.from_numpy(areas))
    return ratios


def _percent(fraction: float) -> float | None:
    return None if np.isnan(fraction) else float(fraction) * 100


def _index(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise TCLError(f"class {name!r} is not known. There are: {', '.join(names)}.")
    return list(names).index(name)


CONFUSIONS = 5
"""Predictions kept of each class, the most frequent ones."""


def confusion(prediction: NDArray[np.integer], labels: NDArray[np.integer], *, classes: int) -> NDArray[np.int64]:
    """Pixels of one image by ground truth and prediction, int64 [classes, classes]; a label of 255 does not count."""
    counted = labels != IGNORED
    pairs = labels[counted].astype(np.int64) * classes + prediction[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def frequent_confusions(
    pixels: NDArray[np.int64], names: Sequence[str], *, only: Sequence[str]
) -> dict[str, dict[str, int]]:
    """Of each class in `only` that is labelled: its pixels by what they are most often taken for, itself included."""
    found: dict[str, dict[str, int]] = {}
    for name in only:
        row = pixels[_index(name, names)]
        order = [int(index) for index in np.argsort(-row, kind="stable")[:CONFUSIONS] if row[index]]
        if order:
            found[name] = {names[index]: int(row[index]) for index in order}
    return found
