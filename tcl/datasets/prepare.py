"""From a data set as it is distributed to label maps that the evaluation reads, converted in place and verified."""

from pathlib import Path
from typing import Any

from tcl.datasets import cityscapes, coco, context
from tcl.datasets.archives import archives_of, lay_out
from tcl.datasets.benchmark import KEYS, Benchmark, of_dataset
from tcl.datasets.verify import Verified, verify
from tcl.errors import TCLError

_CONVERSIONS = {"coco_stuff164k": coco.convert, "context": context.convert, "cityscapes": cityscapes.convert}


def prepare(
    dataset: str,
    root: Path,
    *,
    workers: int = 1,
    complete: bool,
    archives: Path | None = None,
    mirror: str | None = None,
) -> dict[str, Any]:
    """Unpack a data set, convert what it needs beside the originals, and verify every benchmark that is made of it.

    Originals are never changed, and what is there already is left alone, so an interrupted call can be repeated.
    Training splits are verified where their list of images is there. `complete` demands the official number of
    images; without it a subset passes.

    Args:
        dataset: One of `tcl.datasets.benchmark.DATASETS`.
        root: The data root.
        workers: Number of processes.
        complete: Whether the official number of images must be there.
        archives: The folder of the official archives, where they are looked for and put; None if the data set is laid
            out already.
        mirror: The address of a folder that holds the archives too, see `tcl.datasets.archives.lay_out`.

    Returns:
        The manifest: `dataset` and, by key of each benchmark, `images` (their number) and `digest` (a SHA-256 over
        names, images and label maps). It is the same wherever and however often it is made.

    Raises:
        TCLError: something is missing or not valid; the message says what, and what belongs where.
    """
    benchmarks = of_dataset(dataset)
    if archives is not None:
        try:
            lay_out(archives_of(dataset), root, folder=archives, mirror=mirror)
        except TCLError as error:
            raise TCLError(f"{error}\nOr lay the data set out by hand. {benchmarks[0].layout()}") from error
    if not root.is_dir():
        raise TCLError(f"the data root {root} is missing. {benchmarks[0].layout()}")
    if dataset in _CONVERSIONS:
        _CONVERSIONS[dataset](root, workers=workers)
    verified: dict[tuple[str | int | None, ...], Verified] = {}
    for benchmark in benchmarks:
        if _wanted(benchmark, root) and _files(benchmark) not in verified:
            verified[_files(benchmark)] = verify(benchmark, root, workers=workers, complete=complete)
    entries = {each.key: verified[_files(each)] for each in benchmarks if _files(each) in verified}
    manifest = {key: {"images": entry.images, "digest": entry.digest} for key, entry in entries.items()}
    return {"dataset": dataset, "benchmarks": manifest}


def _wanted(benchmark: Benchmark, root: Path) -> bool:
    """Whether to verify: a training split is optional, and is there if its split file is, and names an image."""
    if benchmark.key in KEYS or benchmark.split is None:
        return True
    split = root / benchmark.split
    return split.is_file() and split.stat().st_size > 0


def _files(benchmark: Benchmark) -> tuple[str | int | None, ...]:
    """What the verification looks at: VOC with and without background, for one, share it."""
    return (benchmark.images, benchmark.labels, benchmark.label_suffix, benchmark.split, benchmark.stored_labels)
