"""The global order of samples: a permutation an epoch, and a function of seed and step alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcl.errors import TCLError
from tcl.pairs import order
from tcl.pairs.order import batch


def run(steps: int, **settings: object) -> np.ndarray:
    return np.concatenate([batch(3, step, **settings) for step in range(steps)])  # type: ignore[arg-type]


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(any),
    size=st.integers(1, 17),
    window=st.integers(1, 4),
)
def test_every_epoch_visits_every_sample_once(sizes: list[int], size: int, window: int) -> None:
    total = sum(sizes)
    seen = run(-(-3 * total // size), size=size, shard_sizes=tuple(sizes), window=window)
    for epoch in range(3):
        assert sorted(seen[epoch * total : (epoch + 1) * total]) == list(range(total))


def test_epochs_and_seeds_differ_and_are_shuffled() -> None:
    sizes = (50,) * 20
    first, second = (batch(0, step, size=1000, shard_sizes=sizes) for step in (0, 1))
    other = batch(1, 0, size=1000, shard_sizes=sizes)
    for a, b in ((first, second), (first, other), (first, np.arange(1000))):
        assert np.mean(a == b) < 0.02


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    sizes = (7, 0, 13, 5, 9, 30)
    ahead = [batch(5, step, size=8, shard_sizes=sizes, window=2) for step in range(20)]
    for cached in (order._window, order._window_starts, order._shard_order):
        cached.cache_clear()
    back = [batch(5, step, size=8, shard_sizes=sizes, window=2) for step in reversed(range(20))]
    np.testing.assert_array_equal(ahead, back[::-1])
    assert ahead[0].dtype == np.int64


def test_the_order_is_the_one_that_earlier_runs_had() -> None:
    """A change here, of ours or of numpy's generator, gives interrupted trainings another continuation."""
    np.testing.assert_array_equal(batch(0, 2, size=6, shard_sizes=(5, 4, 3), window=2), [9, 4, 10, 1, 3, 0])


def test_a_window_mixes_its_shards_and_only_those() -> None:
    sizes = (100,) * 40
    drawn = np.unique(batch(0, 0, size=400, shard_sizes=sizes, window=4) // 100)
    assert len(drawn) == 4
    assert len(np.unique(batch(0, 0, size=40, shard_sizes=sizes, window=4) // 100)) == 4


def test_nothing_to_draw_from_is_an_error() -> None:
    with pytest.raises(TCLError, match="every shard is empty"):
        batch(0, 0, size=4, shard_sizes=(0, 0))


def test_size_of_the_real_data() -> None:
    sizes = (10_000,) * 1_417
    late = batch(0, 50_000, size=1024, shard_sizes=sizes)
    assert len(np.unique(late)) == 1024
    assert len(np.unique(late // 10_000)) == order.WINDOW_SHARDS


def test_how_near_the_real_data_come_to_a_full_shuffle() -> None:
    """The figures of docs/training.md: 288 shards of CC3M and 1,129 of CC12M, 10,000 pairs each, over one epoch."""
    sizes, cc3m = (10_000,) * 1_417, 288
    same_shard, shares = [], []
    for step in range(0, sum(sizes) // 1024, 100):
        shards = batch(0, step, size=1024, shard_sizes=sizes) // 10_000
        counts = np.bincount(shards)
        same_shard.append(float((counts * (counts - 1)).sum()) / (1024 * 1023))
        shares.append(float((shards < cc3m).mean()))
    assert np.mean(same_shard) == pytest.approx(1 / order.WINDOW_SHARDS, rel=0.02)  # full shuffle: 1 / 1,417
    assert np.mean(shares) == pytest.approx(cc3m / len(sizes), abs=0.04)
    assert np.std(shares) == pytest.approx(0.15, abs=0.03)  # full shuffle: 0.013
