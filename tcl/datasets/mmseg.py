"""The images and label maps of a benchmark, read by mmsegmentation's data sets and transforms."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcl.datasets.benchmark import IGNORED, Benchmark, Sample, load
from tcl.errors import TCLError
from tcl.mends import import_mmseg_datasets


class LabelledImage(NamedTuple):
    """One image of a benchmark with its ground truth.

    `image` is uint8 [H, W, 3] in the order blue, green, red, pixel values in [0, 255], as OpenCV decodes it. `labels`
    is uint8 [H, W] and holds class indices of the benchmark; 255 is ignored.
    """

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


class BenchmarkImages:
    """The labelled images of a benchmark, decoded one at a time when they are asked for by index or iteration."""

    def __init__(self, dataset: Any, samples: Sequence[Sample]) -> None:
        """Take an mmsegmentation data set in test mode and the samples that it lists, in the same order."""
        self.dataset = dataset
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[LabelledImage]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> LabelledImage:
        """Decode one image and its label map.

        Raises:
            TCLError: a file is missing or not readable, or image and label map differ in size.
            IndexError: the index is out of range.
        """
        sample = self.samples[index]
        try:
            loaded = self.dataset[index % len(self)]
        except (OSError, AssertionError, SyntaxError, ValueError) as error:
            raise TCLError(f"{sample.image} or {sample.labels} cannot be read ({error}). Prepare it again.") from error
        image, labels = loaded["img"], loaded["gt_seg_map"]
        if image.shape[:2] != labels.shape:
            raise TCLError(f"{sample.labels} has shape {labels.shape}, its image {image.shape[:2]}. Prepare it again.")
        return LabelledImage(sample.name, image, labels)


def open_dataset(benchmark: Benchmark, root: Path) -> BenchmarkImages:
    """The labelled images of a benchmark under a data root, in mmsegmentation's order.

    Raises:
        TCLError: a folder, the split file or every image is missing.
    """
    samples = benchmark.samples(root)
    import_mmseg_datasets()
    from mmcv.transforms import LoadImageFromFile
    from mmseg.datasets import LoadAnnotations

    dataset = _dataset_class(benchmark.mmseg)(
        ann_file=str(root / benchmark.split) if benchmark.split else "",
        data_prefix={"img_path": str(root / benchmark.images), "seg_map_path": str(root / benchmark.labels)},
        img_suffix=benchmark.image_suffix,
        seg_map_suffix=benchmark.label_suffix,
        reduce_zero_label=benchmark.zero_label == "ignored",
        ignore_index=IGNORED,
        pipeline=[LoadImageFromFile(), LoadAnnotations()],
        test_mode=True,
    )
    if tuple(dataset.metainfo["classes"]) != benchmark.classes:
        raise TCLError(f"benchmark {benchmark.key}: its classes are not those of mmsegmentation's {benchmark.mmseg}.")
    return BenchmarkImages(dataset, samples)


@cache
def _dataset_class(name: str) -> Any:
    """mmsegmentation's class of this name; the two that it does not have are defined and registered here."""
    import_mmseg_datasets()
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS

    own = {load(key).mmseg: load(key) for key in ("coco_object", "voc20")}
    if name in own:
        members = {"METAINFO": {"classes": own[name].classes}, "__doc__": own[name].title, "__module__": __name__}
        DATASETS.register_module(module=type(name, (BaseSegDataset,), members))
    return DATASETS.get(name)
