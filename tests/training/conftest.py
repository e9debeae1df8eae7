"""What the tests of training share."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcl.training.stop import SIGNALS

from .workplace import make


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A training that was asked to stop leaves these signals ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace whose files nobody changes."""
    return make(tmp_path_factory.mktemp("training") / "workplace")
