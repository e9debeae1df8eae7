"""Preparing tiny data sets in the official layouts."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcl.datasets.benchmark import DATASETS, KEYS, load, of_dataset, raw_ids
from tcl.datasets.labels import read_labels, write_labels
from tcl.datasets.prepare import prepare
from tcl.datasets.verify import verify
from tcl.errors import TCLError
from tests.tiny_datasets import (
    CITY,
    COCO,
    MAKE,
    SIZE,
    add_image,
    add_labels,
    add_split,
    make_ade20k,
    make_cityscapes,
    make_coco,
    make_voc,
    random_labels,
)


def contents(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of every file."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("dataset", DATASETS)
def test_prepare_leaves_originals_alone_and_a_second_run_does_nothing(dataset: str, tmp_path: Path) -> None:
    MAKE[dataset](tmp_path)
    originals = contents(tmp_path)
    manifest = prepare(dataset, tmp_path, complete=False)
    prepared = contents(tmp_path)
    assert originals.items() <= prepared.items()
    keys = [key for key in KEYS if load(key).dataset == dataset]
    assert manifest["dataset"] == dataset
    assert list(manifest["benchmarks"]) == keys
    assert all(entry["images"] == 2 and len(entry["digest"]) == 64 for entry in manifest["benchmarks"].values())
    assert prepare(dataset, tmp_path, complete=False) == manifest
    assert contents(tmp_path) == prepared


def test_processes_give_the_same_manifest(tmp_path: Path) -> None:
    make_coco(tmp_path / "one")
    make_coco(tmp_path / "two")
    one = prepare("coco_stuff164k", tmp_path / "one", workers=1, complete=False)
    assert prepare("coco_stuff164k", tmp_path / "two", workers=2, complete=False) == one
    with pytest.raises(TCLError, match="workers must be at least 1"):
        prepare("coco_stuff164k", tmp_path / "one", workers=0, complete=False)


def test_manifest_follows_the_labels_and_not_their_compression(tmp_path: Path) -> None:
    make_ade20k(tmp_path)
    before = prepare("ade20k", tmp_path, complete=False)
    path = next((tmp_path / load("ade20k").labels).iterdir())
    labels = read_labels(path)
    Image.fromarray(labels).save(path, compress_level=0)
    assert prepare("ade20k", tmp_path, complete=False) == before
    labels[0, 0] = (labels[0, 0] + 1) % 150
    write_labels(path, labels)
    assert prepare("ade20k", tmp_path, complete=False) != before


def test_coco_masks_become_two_label_maps(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / COCO / ".000000000139-abc.png").write_bytes(b"left behind by an interrupted run")
    prepare("coco_stuff164k", tmp_path, complete=False)
    raw = read_labels(tmp_path / COCO / "000000000139.png")
    ids = raw_ids("coco_stuff164k")
    stuff = read_labels(tmp_path / COCO / "000000000139_labelTrainIds.png")
    things = read_labels(tmp_path / COCO / "000000000139_instanceTrainIds.png")
    for value, ours, thing in zip(raw.flat, stuff.flat, things.flat, strict=True):
        assert ours == (255 if value == 255 else ids.index(value))
        assert thing == (ours + 1 if ours < 80 else 0)


def test_coco_training_masks_are_converted_if_they_are_there(tmp_path: Path) -> None:
    make_coco(tmp_path)
    train = tmp_path / "coco_stuff164k/annotations/train2017"
    add_labels(train / "000000000009.png", random_labels([0, 181]))
    prepare("coco_stuff164k", tmp_path, complete=False)
    assert set(np.unique(read_labels(train / "000000000009_labelTrainIds.png"))) == {0, 170}
    assert set(np.unique(read_labels(train / "000000000009_instanceTrainIds.png"))) == {1, 0}


def test_coco_mask_with_an_invalid_id_is_named_and_not_half_written(tmp_path: Path) -> None:
    make_coco(tmp_path)
    add_labels(tmp_path / COCO / "000000000139.png", random_labels([0, 82, 200]))
    with pytest.raises(TCLError, match=r"1 file is not right.\n.*000000000139.png: holds invalid ids: 82, 200\n"):
        prepare("coco_stuff164k", tmp_path, complete=False)
    written = sorted(path.name for path in (tmp_path / COCO).glob("*TrainIds.png"))
    assert written == ["000000000285_instanceTrainIds.png", "000000000285_labelTrainIds.png"]
    assert len(list((tmp_path / COCO).iterdir())) == 4


def test_half_finished_conversion_is_finished(tmp_path: Path) -> None:
    make_coco(tmp_path)
    manifest = prepare("coco_stuff164k", tmp_path, complete=False)
    (tmp_path / COCO / "000000000139_labelTrainIds.png").unlink()
    left = contents(tmp_path)
    assert prepare("coco_stuff164k", tmp_path, complete=False) == manifest
    assert left.items() <= contents(tmp_path).items()


def test_converted_coco_is_accepted_without_the_masks(tmp_path: Path) -> None:
    make_coco(tmp_path)
    manifest = prepare("coco_stuff164k", tmp_path, complete=False)
    for name in ("000000000139", "000000000285"):
        (tmp_path / COCO / f"{name}.png").unlink()
    assert prepare("coco_stuff164k", tmp_path, complete=False) == manifest


def test_cityscapes_ids_that_are_not_evaluated_are_ignored(tmp_path: Path) -> None:
    make_cityscapes(tmp_path)
    prepare("cityscapes", tmp_path, complete=False)
    raw = read_labels(tmp_path / CITY / "ulm_0_gtFine_labelIds.png")
    labels = read_labels(tmp_path / CITY / "ulm_0_gtFine_labelTrainIds.png")
    np.testing.assert_array_equal(labels == 255, ~np.isin(raw, raw_ids("cityscapes")))
    np.testing.assert_array_equal(labels[raw == 7], 0)


def test_every_problem_is_listed_by_file(tmp_path: Path) -> None:
    make_voc(tmp_path)
    benchmark = load("voc")
    images, labels = tmp_path / benchmark.images, tmp_path / benchmark.labels
    add_split(tmp_path, benchmark, ["2007_1", "2007_2", "nolabels", "noimage", "size", "cut", "rgb", "text"])
    for name in ("nolabels", "size", "cut", "rgb", "text"):
        add_image(images / f"{name}.jpg", (60, 80) if name == "cut" else SIZE)
    add_labels(labels / "2007_2.png", random_labels([0, 21, 90]))
    for name in ("noimage", "cut", "rgb"):
        add_labels(labels / f"{name}.png", random_labels([0]))
    add_labels(labels / "size.png", np.zeros((5, 8), dtype=np.uint8))
    add_image(labels / "rgb.png")
    (labels / "text.png").write_text("no image")
    (images / "cut.jpg").write_bytes((images / "cut.jpg").read_bytes()[:-400])
    with pytest.raises(TCLError) as raised:
        prepare("voc", tmp_path, complete=False)
    lines = str(raised.value).splitlines()
    assert lines[0] == "PASCAL VOC 2012: 7 files are not right."
    assert [Path(line.split(":")[0]).name for line in lines[1:-1]] == [
        *("2007_2.png", "nolabels.png", "noimage.jpg", "size.png", "cut.jpg", "rgb.png", "text.png")
    ]
    for line, words in zip(lines[1:], ("holds 21, 90; valid are 0 to 20", "missing", "missing"), strict=False):
        assert words in line
    assert "8 x 5, its image 8 x 6" in lines[4]
    assert "truncated" in lines[5]
    assert "one channel" in lines[6]


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    make_voc(tmp_path)
    add_split(tmp_path, load("voc"), [f"gone_{index:02}" for index in range(25)])
    with pytest.raises(TCLError) as raised:
        prepare("voc", tmp_path, complete=False)
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[0].endswith("25 files are not right.")
    assert lines[-2] == "  ... and 5 more"


@pytest.mark.parametrize("dataset", DATASETS)
def test_missing_data_set_says_what_belongs_where(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(TCLError, match=r"missing|no mask|no label map") as raised:
        prepare(dataset, tmp_path, complete=False)
    assert of_dataset(dataset)[0].images.split("/")[0] in str(raised.value)
    with pytest.raises(TCLError, match=r"data root .* is missing"):
        prepare(dataset, tmp_path / "nowhere", complete=False)


def test_a_complete_data_set_has_the_official_number_of_images(tmp_path: Path) -> None:
    make_voc(tmp_path)
    with pytest.raises(TCLError, match=r"2 images, the official split has 1449\. .* set complete to false"):
        prepare("voc", tmp_path, complete=True)
    small = dataclasses.replace(load("voc"), official_sizes=(1, 2))
    assert verify(small, tmp_path, complete=True).images == 2


def test_monitor_is_verified_where_its_split_is_there(tmp_path: Path) -> None:
    make_voc(tmp_path)
    add_split(tmp_path, load("t_voc20"), ["2007_2"])
    manifest = prepare("voc", tmp_path, complete=False)
    assert list(manifest["benchmarks"]) == ["voc", "voc20", "t_voc20", "t_voc"]
    assert manifest["benchmarks"]["t_voc20"]["images"] == 1
    assert json.loads(json.dumps(manifest)) == manifest
