"""Whether a benchmark's images and label maps are what the evaluation expects."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tcl.datasets.benchmark import IGNORED, Benchmark, Sample
from tcl.datasets.labels import opened, read_labels
from tcl.datasets.parallel import each, refuse
from tcl.errors import TCLError
from tcl.files import sha256


class Verified(NamedTuple):
    """A benchmark that has passed: its number of images and a SHA-256 over names, image files and label values.

    The digest does not depend on how the label maps are compressed, nor on the data root.
    """

    images: int
    digest: str


class Inspection(NamedTuple):
    """One image and its label map: what is wrong, or a SHA-256 over the image file and the label map's values."""

    problem: str | None
    digest: str


def verify(benchmark: Benchmark, root: Path, *, workers: int = 1, complete: bool) -> Verified:
    """Decode every image and label map of a benchmark and check that they belong together.

    With `complete` the number of images must be that of the official split.

    Raises:
        TCLError: an image or label map is missing or not readable, their sizes differ, a label is not valid (the
            first 20 such files are named), or the number of images is wrong.
    """
    samples = benchmark.samples(root)
    if complete:
        _check_size(benchmark, len(samples))
    title = benchmark.title
    items = [(sample, benchmark.stored_labels) for sample in samples]
    inspections = each(inspect, items, workers=workers, title=f"{title}: verifying")
    refuse([inspection.problem for inspection in inspections], title=title, advice=benchmark.layout())
    digest = hashlib.sha256()
    for sample, inspection in zip(samples, inspections, strict=True):
        digest.update(f"{sample.name} {inspection.digest}\n".encode())
    return Verified(len(samples), digest.hexdigest())


def inspect(item: tuple[Sample, int]) -> Inspection:
    """Check one sample whose label map may hold the values 0 to n - 1 and `IGNORED`, with n the item's second part."""
    sample, stored_labels = item
    try:
        labels = read_labels(sample.labels)
        size = _image_size(sample.image)
    except TCLError as error:
        return Inspection(str(error), "")
    if size != labels.shape:
        return Inspection(f"{sample.labels}: is {_size(labels.shape)}, its image {_size(size)} pixels", "")
    counts = np.bincount(labels.ravel(), minlength=256)
    wrong = np.flatnonzero(counts[stored_labels:IGNORED]) + stored_labels
    if len(wrong):
        values = ", ".join(map(str, wrong))
        return Inspection(f"{sample.labels}: holds {values}; valid are 0 to {stored_labels - 1} and {IGNORED}", "")
    content = f"{sha256(sample.image)} {labels.shape}".encode() + labels.tobytes()
    return Inspection(None, hashlib.sha256(content).hexdigest())


def _check_size(benchmark: Benchmark, found: int) -> None:
    if found in benchmark.official_sizes:
        return
    official = " or ".join(map(str, benchmark.official_sizes))
    raise TCLError(
        f"{benchmark.title}: there are {found} images, the official split has {official}. "
        f"Add what is missing, or set complete to false to work with a subset. {benchmark.layout()}"
    )


def _image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image, all of whose data is read, so that a truncated file is found."""
    with opened(path) as image:
        size = image.height, image.width
        image.draft("L", (1, 1))  # an eighth of a JPEG's resolution will do
        image.load()
        return size


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, reversed(shape)))
