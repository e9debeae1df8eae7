"""Annotation files as they are distributed, and as they arrive."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tcl.errors import TCLError
from tcl.pairs.annotations import Listing, write_url_list
from tcl.pairs.source import Source

CAPTION_URL = ("caption", "url")
URL_CAPTION = ("url", "caption")


def rows(path: Path) -> list[tuple[str, str]]:
    table = pq.read_table(path).to_pydict()
    return list(zip(table["url"], table["caption"], strict=True))


@pytest.mark.parametrize(
    ("columns", "text", "expected"),
    [
        (CAPTION_URL, "a cat\thttp://x/1\nb\thttps://x/2", [("http://x/1", "a cat"), ("https://x/2", "b")]),
        (URL_CAPTION, "http://x/1\ta cat\n", [("http://x/1", "a cat")]),
        (URL_CAPTION, "\ufeffhttp://x/1\tä\r\n", [("http://x/1", "ä")]),
        (URL_CAPTION, 'http://x/1\tsaid "no\nhttp://x/2\tb\n', [("http://x/1", 'said "no'), ("http://x/2", "b")]),
        (URL_CAPTION, "http://x/1\ta\tb\u2028c\n", [("http://x/1", "a\tb\u2028c")]),
        (CAPTION_URL, "a\tb\thttp://x/1\n", [("http://x/1", "a\tb")]),
        (URL_CAPTION, "caption\turl\nhttp://x/1\ta\n", [("http://x/1", "a")]),
    ],
)
def test_pairs_are_found(tmp_path: Path, columns: tuple[str, str], text: str, expected: list[tuple[str, str]]) -> None:
    (tmp_path / "list.tsv").write_bytes(text.encode())
    listing = write_url_list(tmp_path / "list.parquet", tmp_path / "list.tsv", columns=columns)
    assert rows(tmp_path / "list.parquet") == expected
    assert listing == Listing(len(expected), 0)


def test_relative_addresses_get_the_servers(tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("a\timages/1.jpg\n")
    write_url_list(tmp_path / "p", tmp_path / "list.tsv", columns=CAPTION_URL, address="http://127.0.0.1:1/")
    assert rows(tmp_path / "p") == [("http://127.0.0.1:1/images/1.jpg", "a")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"caption\turl\n", "is empty"),
        (b"http://x/1\ta cat\nhttp://x/2\tb\n", r"the other way round: set this source's columns to \[url, caption\]"),
        (b"no tab here\n", "line 1: 'no tab here'"),
        (b"a\thttp://x/1\n\xff\xfe\n", "line 2 is not UTF-8"),
        (b"\thttp://x/1\n", "1 of 1 lines are not caption and url"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "list.tsv").write_bytes(data)
    with pytest.raises(TCLError, match=message) as error:
        write_url_list(tmp_path / "list.parquet", tmp_path / "list.tsv", columns=CAPTION_URL)
    assert "list.tsv" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["list.tsv"]


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match=r"gcc3m\.tsv: there is no such annotation file"):
        write_url_list(tmp_path / "p", tmp_path / "gcc3m.tsv", columns=CAPTION_URL)


def test_a_few_malformed_lines_are_counted(tmp_path: Path) -> None:
    lines = [f"{i}\thttp://x/{i}" for i in range(200)]
    (tmp_path / "list.tsv").write_text("\n".join([*lines, "and one without address"]))
    assert write_url_list(tmp_path / "p", tmp_path / "list.tsv", columns=CAPTION_URL) == Listing(200, 1)


def test_a_source_checks_itself() -> None:
    for settings in ({"columns": ("caption", "link")}, {"min_success": 1.5}, {"samples_per_shard": 0}):
        with pytest.raises(TCLError, match=f"gcc3m: {next(iter(settings))}"):
            Source("gcc3m", Path("gcc3m.tsv"), **settings)
