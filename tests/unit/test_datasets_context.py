"""PASCAL Context from a tiny annotation file with run-length masks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from tcl.datasets.benchmark import load, raw_ids
from tcl.datasets.labels import read_labels
from tcl.datasets.prepare import prepare
from tcl.errors import TCLError

BASE = Path("VOCdevkit/VOC2010")
SIZE = (5, 7)
OTHER = 1  # a category beyond the 59


def region(rows: slice, columns: slice, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """The run-length mask of a rectangle."""
    pixels = np.zeros(size, dtype=np.uint8, order="F")
    pixels[rows, columns] = 1
    encoded = rle.encode(pixels)
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def annotation(image: int, category: int, segmentation: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "segmentation": segmentation}


def make(root: Path) -> dict[str, Any]:
    """Four images: overlapping segments, one of another category, no segment at all, and one of the test phase."""
    ids, everything = raw_ids("context"), slice(None)
    names = {1: ("2008_1", "train"), 2: ("2008_2", "val"), 3: ("2008_3", "val"), 4: ("2008_4", "test")}
    (root / BASE / "JPEGImages").mkdir(parents=True)
    for name, _ in names.values():
        Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(root / BASE / "JPEGImages" / f"{name}.jpg")
    return {
        "images": [{"image_id": k, "file_name": f"{n}.jpg", "phase": p} for k, (n, p) in names.items()],
        "annos_segmentation": [
            annotation(1, ids[59], region(everything, everything)),
            annotation(2, ids[1], region(everything, slice(0, 4))),
            annotation(2, ids[37], region(slice(0, 2), slice(2, 6))),
            annotation(2, OTHER, region(slice(4, 5), slice(0, 1))),
        ],
    }


def write(root: Path, content: Any) -> None:
    (root / BASE / "trainval_merged.json").write_text(json.dumps(content), encoding="utf-8")


def labels_of(root: Path, name: str) -> np.ndarray:
    return read_labels(root / BASE / "SegmentationClassContext" / f"{name}.png")


@pytest.mark.parametrize("workers", [1, 2])
def test_label_maps_and_splits_from_the_annotation_file(tmp_path: Path, workers: int) -> None:
    write(tmp_path, make(tmp_path))
    manifest = prepare("context", tmp_path, workers=workers, complete=False)
    assert {key: entry["images"] for key, entry in manifest["benchmarks"].items()} == {
        **{"context": 2, "context59": 2, "t_context59": 1}
    }
    expected = np.zeros(SIZE, dtype=np.uint8)
    expected[:, :4] = 1
    expected[:2, 2:6] = 37
    expected[4, 0] = 0
    np.testing.assert_array_equal(labels_of(tmp_path, "2008_2"), expected)
    assert (labels_of(tmp_path, "2008_1") == 59).all()
    assert (labels_of(tmp_path, "2008_3") == 0).all()
    assert len(list((tmp_path / BASE / "SegmentationClassContext").iterdir())) == 3
    assert (tmp_path / str(load("context").split)).read_text() == "2008_2\n2008_3\n"
    assert (tmp_path / str(load("t_context59").split)).read_text() == "2008_1\n"


def test_an_interrupted_conversion_is_finished_and_a_finished_one_needs_no_annotations(tmp_path: Path) -> None:
    write(tmp_path, make(tmp_path))
    manifest = prepare("context", tmp_path, complete=False)
    (tmp_path / BASE / "SegmentationClassContext" / "2008_2.png").unlink()
    assert prepare("context", tmp_path, complete=False) == manifest
    (tmp_path / BASE / "trainval_merged.json").unlink()
    assert prepare("context", tmp_path, complete=False) == manifest


def test_label_maps_missing_without_annotations_are_named(tmp_path: Path) -> None:
    write(tmp_path, make(tmp_path))
    prepare("context", tmp_path, complete=False)
    (tmp_path / BASE / "trainval_merged.json").unlink()
    (tmp_path / BASE / "SegmentationClassContext" / "2008_2.png").unlink()
    with pytest.raises(TCLError, match=r"2008_2\.png: is missing"):
        prepare("context", tmp_path, complete=False)


def test_without_annotations_or_label_maps(tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(TCLError, match=r"trainval_merged\.json is missing"):
        prepare("context", tmp_path, complete=False)


@pytest.mark.parametrize(
    "broken",
    [
        [],
        {"images": []},
        {"annos_segmentation": [], "images": [{"phase": "val"}]},
        {"annos_segmentation": [], "images": [{"phase": "val", "image_id": 1, "file_name": 7}]},
        {"annos_segmentation": [{"image_id": []}], "images": []},
    ],
)
def test_file_in_another_format(tmp_path: Path, broken: Any) -> None:
    make(tmp_path)
    write(tmp_path, broken)
    with pytest.raises(TCLError, match=r"trainval_merged\.json: not in the format of PASCAL Context"):
        prepare("context", tmp_path, complete=False)


def test_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / BASE / "trainval_merged.json"
    write(tmp_path, make(tmp_path))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(TCLError, match="not in the format"):
        prepare("context", tmp_path, complete=False)


def test_segments_of_different_sizes_are_refused(tmp_path: Path) -> None:
    content = make(tmp_path)
    content["annos_segmentation"].append(annotation(2, 0, region(slice(0, 1), slice(0, 1), (6, 7))))
    write(tmp_path, content)
    with pytest.raises(TCLError, match=r"2008_2\.jpg: its segments differ in size"):
        prepare("context", tmp_path, complete=False)
    assert not (tmp_path / str(load("context").split)).exists()
