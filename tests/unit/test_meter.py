"""Speed and the time that is left, on a clock of the test's own."""

import pytest
import torch

from tcl.training import meter
from tcl.training.meter import Meter, clock, in_words


class Clock:
    """Stands in for time.monotonic."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_the_time_left_follows_the_arithmetic_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock()
    monkeypatch.setattr(meter, "time", time)
    watched = Meter(lambda step: 1.0 if step < 600 else 3.0, range(1000), pairs=8, ranks=2, peak=1.0)
    assert watched.remaining() is None
    durations = {step: 30.0 if step == 0 else 1.0 if step < 600 else 3.0 for step in range(1000)}
    for step in range(50):
        time.now += durations[step]
        watched.count(step)
    left = sum(durations[step] for step in range(50, 1000))
    assert watched.remaining() == pytest.approx(left)


def test_a_reading_covers_the_steps_since_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock()
    monkeypatch.setattr(meter, "time", time)
    watched = Meter(lambda step: 1e9, range(10), pairs=8, ranks=2, peak=16e9)
    for step in range(4):
        time.now += 0.5
        watched.waited(0.1)
        watched.count(step)
        if step == 1:
            watched.read()
    speed = watched.read()
    assert speed["pairs_per_second"] == pytest.approx(16)
    assert speed["data_wait"] == pytest.approx(0.2)
    assert speed["tflops"] == pytest.approx(8e-3)
    assert speed["mfu"] == pytest.approx(0.5)


def test_no_more_than_all_of_the_peak_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Clock()
    monkeypatch.setattr(meter, "time", time)
    watched = Meter(lambda step: 1e9, range(10), pairs=8, ranks=1, peak=1e9)  # measured while others were busy
    found = []
    for step, seconds in enumerate((2.0, 4.0)):
        time.now += seconds
        watched.count(step)
        found.append(watched.read()["mfu"])
    assert found == pytest.approx([1.0, 0.5])


def test_measuring_the_peak_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    assert meter.matrix_peak(torch.device("cpu"), torch.float32) > 1e8
    assert torch.equal(torch.get_rng_state(), before)


def test_in_words() -> None:
    speed = {"pairs_per_second": 900.0, "data_wait": 0.02, "tflops": 288.0, "mfu": 0.41, "gpu_gb": 99.0}
    told = in_words({"step": 10, "lr": 7.5e-5, "total": 1.25}, speed, 3725)
    expected = "ends in 1:02:05, 900 pairs/s, waits 2%, 288 TFLOP/s (41% of peak), 99.0 GB, lr 7.5e-05 total 1.25"
    assert told == expected
    assert clock(59.6) == "0:01:00"
