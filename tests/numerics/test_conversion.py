"""The conversions of label ids against label maps made by the official converters."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tcl.datasets import cityscapes, coco
from tcl.datasets.benchmark import IGNORED, load, raw_ids

REFERENCE = Path(__file__).parents[1] / "data" / "coco_conversion.npz"
INVALID = 254


def reference(kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Raw masks and what the official converter made of them."""
    with np.load(REFERENCE) as arrays:
        names = [name.split("/")[1] for name in arrays.files if name.startswith(f"{kind}/")]
        return [(arrays[f"mask/{name}"], arrays[f"{kind}/{name}"]) for name in names]


def test_coco_object_against_reference_converter() -> None:
    _, table = coco.tables()
    masks = reference("coco_object")
    assert len(masks) == 4
    for raw, expected in masks:
        valid = np.isin(raw, (*raw_ids("coco_stuff164k"), IGNORED))
        np.testing.assert_array_equal(table[raw][valid], expected[valid])
        assert (table[raw][~valid] == INVALID).all()


def test_coco_stuff_against_reference_converter() -> None:
    table, _ = coco.tables()
    for raw, expected in reference("coco_stuff"):
        np.testing.assert_array_equal(table[raw], expected)


@pytest.mark.parametrize("unlisted", [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90, 182, 200, 254])
def test_ids_that_coco_stuff_lacks_are_invalid(unlisted: int) -> None:
    assert all(table[unlisted] == INVALID for table in coco.tables())


def test_unlabelled_pixels_of_coco() -> None:
    stuff, things = coco.tables()
    assert stuff[IGNORED] == IGNORED
    assert things[IGNORED] == 0


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from(raw_ids("coco_stuff164k")))
)
def test_tables_equal_a_walk_over_the_ids(raw: np.ndarray) -> None:
    stuff, things = coco.tables()
    walked_stuff, walked_things = np.full_like(raw, 99), np.full_like(raw, 99)
    for index, value in enumerate(raw_ids("coco_stuff164k")):
        walked_stuff[raw == value] = index
        walked_things[raw == value] = index + 1 if index < 80 else 0
    np.testing.assert_array_equal(stuff[raw], walked_stuff)
    np.testing.assert_array_equal(things[raw], walked_things)


def test_coco_classes_agree_between_the_two_benchmarks() -> None:
    assert load("coco_object").classes[1:] == load("coco_stuff").classes[:80]


def test_cityscapes_train_ids() -> None:
    table = cityscapes.table()
    named = dict(zip(load("cityscapes").classes, raw_ids("cityscapes"), strict=True))
    assert [table[named[name]] for name in ("road", "sky", "person", "bicycle")] == [0, 10, 11, 18]
    assert sorted(table[: 33 + 1])[:19] == list(range(19))
    assert (np.sort(table[:34])[19:] == IGNORED).all()
    assert table[IGNORED] == IGNORED
    assert (table[34:IGNORED] == INVALID).all()


def test_context_ids() -> None:
    ids = raw_ids("context")
    assert len(ids) == len(load("context").classes) == 60
    assert ids[0] == 0
    assert list(ids) == sorted(set(ids))
