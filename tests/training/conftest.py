"""What the tests of training share."""

from pathlib import Path

import pytest

from .workplace import make


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace whose files nobody changes."""
    return make(tmp_path_factory.mktemp("training") / "workplace")
