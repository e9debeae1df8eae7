"""Fetching one file from a real web server."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcl import transfer
from tcl.errors import TCLError
from tcl.transfer import fetch
from tests.file_server import FileServer, serving

DATA = bytes(range(256)) * 400


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setattr("tcl.transfer.time.sleep", lambda seconds: None)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "a.zip").write_bytes(DATA)
    with serving(tmp_path / "site") as found:
        yield found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_connection_that_breaks_is_taken_up_again(tmp_path: Path, server: FileServer) -> None:
    server.limit = 30_000
    fetch(f"{server.address}/a.zip", tmp_path / "out" / "a.zip")
    assert (tmp_path / "out" / "a.zip").read_bytes() == DATA
    assert names(tmp_path / "out") == ["a.zip"]
    assert [wanted for _, wanted in server.requests] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


@pytest.mark.parametrize("changed", [False, True])
def test_an_interrupted_download_is_continued_unless_the_file_has_changed(
    tmp_path: Path, server: FileServer, changed: bool
) -> None:
    out = tmp_path / "out" / "a.zip"
    server.limit = 30_000
    fetch(f"{server.address}/a.zip", out)
    part, tag = out.with_name(".a.zip.part"), out.with_name(".a.zip.tag")
    out.unlink()
    part.write_bytes(DATA[:50_000])
    tag.write_text(f'"{hash(DATA)}"')
    data = DATA[::-1] if changed else DATA
    (tmp_path / "site" / "a.zip").write_bytes(data)
    server.limit = None
    server.requests.clear()
    fetch(f"{server.address}/a.zip", out)
    assert out.read_bytes() == data
    assert server.requests == [("/a.zip", "bytes=50000-")]


def test_a_server_that_gives_no_parts_and_one_that_has_less(tmp_path: Path, server: FileServer) -> None:
    out = tmp_path / "a.zip"
    out.with_name(".a.zip.tag").write_text(f'"{hash(DATA)}"')
    for ranges in (False, True):
        server.ranges = ranges
        out.with_name(".a.zip.part").write_bytes(DATA + b"more")
        fetch(f"{server.address}/a.zip", out)
        assert out.read_bytes() == DATA


def test_a_checksum_that_differs(tmp_path: Path, server: FileServer) -> None:
    out = tmp_path / "out" / "a.zip"
    right = hashlib.md5(DATA).hexdigest()
    with pytest.raises(TCLError, match=f"has the checksum md5:{right}, expected is md5:0000"):
        fetch(f"{server.address}/a.zip", out, expected=f"md5:{'0' * 32}")
    assert names(tmp_path / "out") == []
    fetch(f"{server.address}/a.zip", out, expected=f"md5:{right}")
    assert out.read_bytes() == DATA


def test_what_cannot_be_had_is_said(tmp_path: Path, server: FileServer) -> None:
    with pytest.raises(TCLError, match=r"HTTP Error 404.*put it at .*b\.zip"):
        fetch(f"{server.address}/b.zip", tmp_path / "b.zip")
    assert len(server.requests) == 1
    server.limit = 0
    with pytest.raises(TCLError, match="more expected"):
        fetch(f"{server.address}/a.zip", tmp_path / "a.zip")
    assert len(server.requests) == 1 + transfer.ATTEMPTS
    assert not (tmp_path / "a.zip").exists()
