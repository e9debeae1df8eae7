"""Reading benchmarks through mmsegmentation, and the mends that let it be imported."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tcl.datasets.benchmark import KEYS, MONITORS, Benchmark, load
from tcl.datasets.mmseg import open_dataset
from tcl.errors import TCLError

SIZE = (9, 12)


def make(root: Path, benchmark: Benchmark) -> list[str]:
    """Two labelled images in the benchmark's layout; their names in the order of the benchmark."""
    stems = ["b/b_1", "a/a_2"] if benchmark.dataset == "cityscapes" else ["b_1", "a_2"]
    random = np.random.default_rng(0)
    values = np.array([*range(benchmark.stored_labels), 255], dtype=np.uint8)
    for stem in stems:
        image = root / benchmark.images / (stem + benchmark.image_suffix)
        labels = root / benchmark.labels / (stem + benchmark.label_suffix)
        for path in (image, labels):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(image)
        Image.fromarray(random.choice(values, SIZE)).save(labels)
    if benchmark.split is None:
        return ["a_2", "b_1"]
    split = root / benchmark.split
    split.parent.mkdir(parents=True, exist_ok=True)
    split.write_text("b_1\na_2\n")
    return ["b_1", "a_2"]


@pytest.mark.parametrize("key", KEYS + MONITORS)
def test_images_and_labels_of_every_benchmark(key: str, tmp_path: Path) -> None:
    benchmark = load(key)
    names = make(tmp_path, benchmark)
    dataset = open_dataset(benchmark, tmp_path)
    assert len(dataset) == 2
    assert [item.name for item in dataset] == names
    for sample, item in zip(benchmark.samples(tmp_path), dataset, strict=True):
        np.testing.assert_array_equal(item.image, cv2.imread(str(sample.image)))
        stored = np.array(Image.open(sample.labels)).astype(int)
        expected = np.where(stored == 0, 255, stored - 1) if benchmark.zero_label == "ignored" else stored
        expected[stored == 255] = 255
        np.testing.assert_array_equal(item.labels, expected)
        assert item.image.dtype == item.labels.dtype == np.uint8


@pytest.mark.parametrize("key", KEYS)
def test_classes_are_those_of_mmsegmentation(key: str, tmp_path: Path) -> None:
    benchmark = load(key)
    make(tmp_path, benchmark)
    metadata = open_dataset(benchmark, tmp_path).dataset.metainfo
    assert tuple(metadata["classes"]) == benchmark.classes
    assert len(metadata["palette"]) == len(benchmark.classes)


def test_index_is_checked_and_counts_from_the_end_too(tmp_path: Path) -> None:
    make(tmp_path, load("voc"))
    dataset = open_dataset(load("voc"), tmp_path)
    assert dataset[-1].name == dataset[1].name == "a_2"
    with pytest.raises(IndexError):
        dataset[2]


def test_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    benchmark = load("voc")
    make(tmp_path, benchmark)
    dataset = open_dataset(benchmark, tmp_path)
    (tmp_path / benchmark.images / "b_1.jpg").write_bytes(b"no image")
    (tmp_path / benchmark.labels / "a_2.png").unlink()
    for index in range(2):
        with pytest.raises(TCLError, match="cannot be read"):
            dataset[index]


def test_image_and_labels_of_different_sizes(tmp_path: Path) -> None:
    benchmark = load("voc20")
    make(tmp_path, benchmark)
    Image.fromarray(np.zeros((9, 11), dtype=np.uint8)).save(tmp_path / benchmark.labels / "b_1.png")
    with pytest.raises(TCLError, match=r"has shape \(9, 11\), its image \(9, 12\)"):
        open_dataset(benchmark, tmp_path)[0]


def test_missing_data_set(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match="is missing"):
        open_dataset(load("ade20k"), tmp_path)


MENDED = """
import sys
from tcl.mends import mend_mmcv, mend_torchvision
mend_torchvision(); mend_torchvision(); mend_mmcv(); mend_mmcv()
import torch, torchvision, mmcv.ops, mmseg.datasets
from mmcv.utils.ext_loader import check_ops_exist
if not check_ops_exist():
    assert "mmcv._ext" not in sys.modules
    try:
        mmcv.ops.nms(torch.rand(4, 4), torch.rand(4), 0.5)
    except RuntimeError as error:
        assert "needs the compiled mmcv" in str(error), error
    else:
        raise AssertionError("a missing operator was called")
"""

LEAN = """
import sys
from tcl.mends import import_mmseg_datasets, import_open_clip, mend_mmcv
import_open_clip()
import_mmseg_datasets()
assert not {"timm", "albumentations", "mmcv.ops", "torch._dynamo", "wandb"} & set(sys.modules)
assert {"open_clip", "mmseg.datasets"} <= set(sys.modules)
mend_mmcv()
import timm, mmcv.ops
assert mmcv.ops.__file__
"""


@pytest.mark.parametrize("code", [MENDED, LEAN], ids=["mends", "lean"])
def test_imports_in_a_fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_installed_transformers_is_left_alone(tmp_path: Path) -> None:
    """It imports parts of torch's compiler, which open_clip's import once left behind unusable."""
    (tmp_path / "transformers.py").write_text("import torch._inductor.config")
    code = "import tcl.mends, sys\ntcl.mends.import_open_clip()\nassert 'transformers' not in sys.modules\n"
    use = "import transformers, torch\nassert torch._inductor.config.cpp"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    subprocess.run([sys.executable, "-c", code + use], check=True, env=environment)
