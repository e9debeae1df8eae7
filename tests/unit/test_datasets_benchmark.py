"""The declarative benchmarks and where they find their files."""

import subprocess
import sys
from pathlib import Path

import pytest

from tcl.datasets.benchmark import DATASETS, KEYS, MONITORS, THRESHOLD_SPLITS, load, of_dataset, raw_ids
from tcl.errors import TCLError

CLASSES = dict(zip(KEYS, (21, 60, 81, 20, 59, 171, 19, 150), strict=True)) | {
    "t_voc20": 20,
    "t_context59": 59,
    "t_voc": 21,
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize("key", CLASSES)
def test_every_benchmark_is_complete(key: str) -> None:
    benchmark = load(key)
    assert benchmark.key == key
    assert benchmark.dataset in DATASETS
    assert len(benchmark.classes) == len(set(benchmark.classes)) == CLASSES[key]
    assert all(isinstance(name, str) for name in benchmark.classes)
    assert (
        benchmark.background
        == (benchmark.classes[0] == "background")
        == (key in ("voc", "context", "coco_object", "t_voc"))
    )
    assert benchmark.background == (benchmark.zero_label == "background")
    assert benchmark.stored_labels <= 255
    assert benchmark.official_sizes


def test_zero_labels() -> None:
    ignored = [key for key in KEYS if load(key).zero_label == "ignored"]
    assert ignored == ["voc20", "context59", "ade20k"]


def test_every_file_is_a_benchmark() -> None:
    folder = Path(sys.modules[load.__module__].__file__ or "").parent / "benchmarks"
    assert {path.stem for path in folder.glob("*")} == set(CLASSES)


def test_a_monitor_differs_in_its_split_only() -> None:
    monitor, base = load("t_voc20"), load("voc20")
    assert monitor.split != base.split
    assert (monitor.classes, monitor.images, monitor.zero_label) == (base.classes, base.images, base.zero_label)


def test_data_sets_cover_the_benchmarks() -> None:
    found = [benchmark.key for dataset in DATASETS for benchmark in of_dataset(dataset)]
    assert sorted(found) == sorted(KEYS + MONITORS + THRESHOLD_SPLITS)
    with pytest.raises(TCLError, match="data set 'coco' is not known"):
        of_dataset("coco")


@pytest.mark.parametrize(("dataset", "count"), [("context", 60), ("coco_stuff164k", 171), ("cityscapes", 19)])
def test_raw_ids(dataset: str, count: int) -> None:
    assert len(set(raw_ids(dataset))) == count


def test_data_set_without_raw_ids() -> None:
    with pytest.raises(TCLError, match="voc"):
        raw_ids("voc")


def test_unknown_key_suggests_the_nearest() -> None:
    with pytest.raises(TCLError, match=r"'vocc' is not known. Did you mean 'voc'"):
        load("vocc")


def test_samples_follow_the_split_file(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass"):
        (base / folder).mkdir(parents=True)
    split = tmp_path / (load("voc").split or "")
    split.parent.mkdir(parents=True)
    split.write_text("2008_2\r\n2007_1\n", encoding="utf-8")
    samples = load("voc").samples(tmp_path)
    assert [sample.name for sample in samples] == ["2008_2", "2007_1"]
    assert samples[0].image == base / "JPEGImages" / "2008_2.jpg"
    assert samples[0].labels == base / "SegmentationClass" / "2008_2.png"


@pytest.mark.parametrize(("text", "fault"), [("a\n\nb\n", "line 2 is blank"), ("a\nb\na\n", "line 3 repeats a")])
def test_faulty_split_file(tmp_path: Path, text: str, fault: str) -> None:
    benchmark = load("voc")
    for folder in (benchmark.images, benchmark.labels):
        (tmp_path / folder).mkdir(parents=True)
    split = tmp_path / (benchmark.split or "")
    split.parent.mkdir(parents=True)
    split.write_text(text, encoding="utf-8")
    with pytest.raises(TCLError, match=fault):
        benchmark.samples(tmp_path)


def test_listed_samples_are_sorted_by_path_and_skip_hidden_files(tmp_path: Path) -> None:
    benchmark = load("cityscapes")
    for name in ("b/b_2", "a/a_1", "a-b/x_1", "a/.a_0"):
        touch(tmp_path / benchmark.images / f"{name}_leftImg8bit.png")
    (tmp_path / benchmark.labels).mkdir(parents=True)
    samples = benchmark.samples(tmp_path)
    assert [sample.name for sample in samples] == ["x_1", "a_1", "b_2"]
    assert samples[1].labels == tmp_path / benchmark.labels / "a" / "a_1_gtFine_labelTrainIds.png"


def test_missing_parts_say_what_belongs_where(tmp_path: Path) -> None:
    benchmark = load("voc")
    with pytest.raises(TCLError, match=r"JPEGImages is missing\. Under the data root the images belong in"):
        benchmark.samples(tmp_path)
    for folder in (benchmark.images, benchmark.labels):
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(TCLError, match=r"the split file .*val\.txt is missing"):
        benchmark.samples(tmp_path)
    split = tmp_path / (benchmark.split or "")
    touch(split)
    with pytest.raises(TCLError, match="no image"):
        benchmark.samples(tmp_path)


def test_imports_nothing_heavy() -> None:
    heavy = {"torch", "cv2", "PIL", "pycocotools", "mmseg", "pandas"}
    code = f"import sys, tcl.datasets.prepare; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
