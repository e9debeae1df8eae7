"""The benchmarks as data: one YAML file each in `benchmarks/`, and where the files of one lie under a data root."""

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from tcl.errors import TCLError

KEYS = ("voc", "context", "coco_object", "voc20", "context59", "coco_stuff", "cityscapes", "ade20k")
"""The paper's benchmarks in the order of its tables."""

MONITORS = ("t_voc20", "t_context59")
"""Training splits on which a training run is watched."""

THRESHOLD_SPLITS = ("t_voc",)
"""Training splits with a background, on which a threshold is chosen."""

DATASETS = ("voc", "context", "coco_stuff164k", "cityscapes", "ade20k")
"""The data sets that the benchmarks are made of; each is prepared as a whole."""

IGNORED = 255
"""The label of a pixel that is not scored."""

_HERE = Path(__file__).parent


class Sample(NamedTuple):
    """One image of a benchmark: its file name without suffix, its image and its label map."""

    name: str
    image: Path
    labels: Path


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the evaluation protocol; paths are relative to the data root.

    `classes` are mmsegmentation's raw names in the order of the class indices. `zero_label` says what 0 means in a
    label file: the background, which is class 0; a pixel to ignore, with class i stored as i + 1; or a class like any
    other. `official_sizes` holds the numbers of images that the official split may have.
    """

    key: str
    title: str
    dataset: str
    mmseg: str
    images: str
    image_suffix: str
    labels: str
    label_suffix: str
    split: str | None
    official_sizes: tuple[int, ...]
    background: bool
    zero_label: Literal["background", "ignored", "class"]
    classes: tuple[str, ...]

    @property
    def stored_labels(self) -> int:
        """Number of values that a label file may hold, from 0 upwards; `IGNORED` may occur besides."""
        return len(self.classes) + (self.zero_label == "ignored")

    def samples(self, root: Path) -> list[Sample]:
        """The images of the split, in mmsegmentation's order: that of the split file, else sorted by path.

        Raises:
            TCLError: a folder or the split file is missing, a line of it is blank or repeated, or there is no image.
        """
        for folder in (self.images, self.labels):
            if not (root / folder).is_dir():
                raise TCLError(f"{self.title}: the folder {root / folder} is missing. {self.layout()}")
        stems = self._listed(root) if self.split is None else self._split(root / self.split)
        if not stems:
            where = root / (self.split or self.images)
            raise TCLError(f"{self.title}: there is no image in {where}. {self.layout()}")
        return [self._sample(root, stem) for stem in stems]

    def layout(self) -> str:
        """One sentence on what belongs where under the data root."""
        split = f", and the names of the images in {self.split}" if self.split else ""
        return (
            f"Under the data root the images belong in {self.images}/*{self.image_suffix}, "
            f"the label maps in {self.labels}/*{self.label_suffix}{split}."
        )

    def _sample(self, root: Path, stem: str) -> Sample:
        image, labels = root / self.images, root / self.labels
        return Sample(Path(stem).name, image / (stem + self.image_suffix), labels / (stem + self.label_suffix))

    def _split(self, path: Path) -> list[str]:
        if not path.is_file():
            raise TCLError(f"{self.title}: the split file {path} is missing. {self.layout()}")
        stems = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        seen: set[str] = set()
        for number, stem in enumerate(stems, start=1):
            if not stem or stem in seen:
                fault = "is blank" if not stem else f"repeats {stem}"
                raise TCLError(f"{path}, line {number} {fault}: there must be one image name a line. Remove the line.")
            seen.add(stem)
        return stems

    def _listed(self, root: Path) -> list[str]:
        folder = os.fspath(root / self.images)
        paths = (os.path.join(where, name) for where, _, names in os.walk(folder, followlinks=True) for name in names)
        found = sorted(p for p in paths if p.endswith(self.image_suffix) and not os.path.basename(p).startswith("."))
        return [path[len(folder) + 1 : -len(self.image_suffix)] for path in found]


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


@cache
def load(key: str) -> Benchmark:
    """The benchmark of this key, one of `KEYS`, `MONITORS` and `THRESHOLD_SPLITS`.

    Raises:
        TCLError: there is no such benchmark.
    """
    known = KEYS + MONITORS + THRESHOLD_SPLITS
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TCLError(f"benchmark {key!r} is not known.{hint} There are: {', '.join(known)}.")
    content: dict[str, Any] = _read(_HERE / "benchmarks" / f"{key}.yaml")
    content = {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}
    like = content.pop("like", None)
    if like is not None:
        return replace(load(like), key=key, **content)
    return Benchmark(key=key, **content)


def of_dataset(dataset: str) -> tuple[Benchmark, ...]:
    """The benchmarks and training splits that are made of this data set, one of `DATASETS`.

    Raises:
        TCLError: there is no such data set.
    """
    if dataset not in DATASETS:
        raise TCLError(f"data set {dataset!r} is not known. There are: {', '.join(DATASETS)}.")
    return tuple(each for each in map(load, KEYS + MONITORS + THRESHOLD_SPLITS) if each.dataset == dataset)


@cache
def raw_ids(dataset: str) -> tuple[int, ...]:
    """The id that the data set's official annotations give each class, in the order of the classes.

    Known for `context` (60 category ids, background first), `coco_stuff164k` (171 mask values) and `cityscapes`
    (19 label ids).

    Raises:
        TCLError: the data set is none of these; its label maps are used as they are.
    """
    known = _read(_HERE / "raw_ids.yaml")
    if dataset not in known:
        raise TCLError(f"data set {dataset!r} has no raw ids. There are those of: {', '.join(known)}.")
    return tuple(known[dataset])


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content
