"""Annotation files as they are distributed, and as they arrive."""

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tcl.errors import TCLError
from tcl.pairs.annotations import NO_CAPTION, NO_URL, NOT_UTF8, Listing, write_url_list
from tcl.pairs.source import Source
from tcl.pairs.tables import Columns

CAPTION_URL = Columns(url=1, caption=0)
URL_CAPTION = Columns(url=0, caption=1)
NAMED = Columns(url="URL", caption="TEXT")


def rows(path: Path) -> list[tuple[str, str]]:
    table = pq.read_table(path).to_pydict()
    return list(zip(table["url"], table["caption"], strict=True))


def read(folder: Path, data: str | bytes, columns: Columns, **settings: Any) -> tuple[Listing, list[tuple[str, str]]]:
    (folder / "list").write_bytes(data.encode() if isinstance(data, str) else data)
    listing = write_url_list(folder / "parquet", folder / "list", columns=columns, **settings)
    return listing, rows(folder / "parquet")


@pytest.mark.parametrize(
    ("columns", "text", "expected"),
    [
        (CAPTION_URL, "a cat\thttp://x/1\nb\thttps://x/2", [("http://x/1", "a cat"), ("https://x/2", "b")]),
        (URL_CAPTION, "http://x/1\ta cat\n", [("http://x/1", "a cat")]),
        (URL_CAPTION, "\ufeffhttp://x/1\tä\r\n", [("http://x/1", "ä")]),
        (URL_CAPTION, 'http://x/1\tsaid "no\nhttp://x/2\tb\n', [("http://x/1", 'said "no'), ("http://x/2", "b")]),
        (URL_CAPTION, "http://x/1\ta\tb\u2028c\n", [("http://x/1", "a\tb\u2028c")]),
        (CAPTION_URL, "a\tb\thttp://x/1\n", [("http://x/1", "a\tb")]),
        (CAPTION_URL, "\ufeffa\tb\tHTTP://x/1\n\n\n", [("HTTP://x/1", "a\tb")]),
        (URL_CAPTION, "caption\turl\nhttp://x/1\ta\n", [("http://x/1", "a")]),
        (NAMED, "TEXT\tURL\na\tb\thttp://x/1\n", [("http://x/1", "a\tb")]),
        (NAMED, "id\tURL\tTEXT\n7\thttp://x/1\ta\tfrom here\n", [("http://x/1", "a")]),
        (Columns(url=2, caption=1), "7\ta\thttp://x/1\n", [("http://x/1", "a")]),
    ],
)
def test_tab_separated_files(tmp_path: Path, columns: Columns, text: str, expected: list[tuple[str, str]]) -> None:
    listing, found = read(tmp_path, text, columns)
    assert found == expected
    assert listing == Listing(len(expected), Counter(), 0, 0)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (NAMED, '\ufeffid,TEXT,URL\n1,"a ""big"" cat,\nasleep","http://x/1,2"\n2,b,http://x/2\n'),
        (Columns(url=1, caption=0), '"a ""big"" cat,\nasleep","http://x/1,2"\nb,http://x/2\n\n'),
    ],
)
def test_comma_separated_files(tmp_path: Path, columns: Columns, text: str) -> None:
    _, found = read(tmp_path, text, columns, format="csv")
    assert found == [("http://x/1,2", 'a "big" cat,\nasleep'), ("http://x/2", "b")]


def test_parquet_files(tmp_path: Path) -> None:
    links = [f"http://x/{i}" for i in range(300)]
    table = pa.table({"id": range(300), "URL": links, "TEXT": pa.array(["a"] * 299 + [None], pa.large_string())})
    pq.write_table(table, tmp_path / "list", row_group_size=7)
    listing = write_url_list(tmp_path / "parquet", tmp_path / "list", columns=NAMED, format="parquet")
    assert listing == Listing(299, Counter({NO_CAPTION: 1}), 0, 0)
    assert rows(tmp_path / "parquet") == [(link, "a") for link in links[:299]]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ({"url": ["http://x/1"], "TEXT": ["a"]}, NAMED, "no column 'URL'; there are 'url', 'TEXT'"),
        ({"URL": [1], "TEXT": ["a"]}, NAMED, "'URL' holds int64, addresses and captions are strings"),
        (None, NAMED, "not a readable parquet file"),
    ],
)
def test_parquet_files_of_another_kind(tmp_path: Path, content: Any, columns: Columns, message: str) -> None:
    if content is None:
        (tmp_path / "list").write_text("URL,TEXT\n")
    else:
        pq.write_table(pa.table(content), tmp_path / "list")
    with pytest.raises(TCLError, match=message):
        write_url_list(tmp_path / "parquet", tmp_path / "list", columns=columns, format="parquet")


def test_relative_addresses_get_the_servers(tmp_path: Path) -> None:
    _, found = read(tmp_path, "a\timages/1.jpg\n", CAPTION_URL, address="http://127.0.0.1:1/")
    assert found == [("http://127.0.0.1:1/images/1.jpg", "a")]


@pytest.mark.parametrize(
    ("data", "columns", "message"),
    [
        (b"", CAPTION_URL, "is empty"),
        (b"", NAMED, "is empty"),
        (b"\xef\xbb\xbf", CAPTION_URL, "is empty"),
        (b"caption\turl\n", CAPTION_URL, "is empty"),
        (
            b"http://x/1\ta cat\nhttp://x/2\tb\n",
            CAPTION_URL,
            r"the other way round: set this source's columns to \{url: 0, caption: 1\}",
        ),
        (
            b"http://x/1\ta\tcat\n",
            CAPTION_URL,
            r"the other way round: set this source's columns to \{url: 0, caption: 1\}",
        ),
        (b"TEXT\tURL\nhttp://x/1\ta cat\n", NAMED, r"the other way round: .* \{url: TEXT, caption: URL\}"),
        (b"no tab here\n", CAPTION_URL, r"1 of 1 rows are no pair .*row 1: '' as the URL of 'no tab here'"),
        (b"a\thttp://x/1\n\xff\thttp://x/2\n", CAPTION_URL, "1 of 2 rows are no pair .1 x annotation file: not UTF-8"),
        ("a\thttp://x/1\n".encode("utf-16"), CAPTION_URL, "is UTF-16"),
        (b"\thttp://x/1\n", CAPTION_URL, "1 of 1 rows are no pair .1 x annotation file: no caption"),
        (b"a\tb\n", NAMED, "no column 'URL'; its first line is 'a', 'b'"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, data: bytes, columns: Columns, message: str) -> None:
    with pytest.raises(TCLError, match=message) as error:
        read(tmp_path, data, columns)
    assert str(tmp_path / "list") in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["list"]


def test_a_missing_list_is_named(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match=r"gcc3m\.tsv: there is no such annotation file"):
        write_url_list(tmp_path / "p", tmp_path / "gcc3m.tsv", columns=CAPTION_URL)


def test_a_few_rows_that_are_no_pair_and_repetitions_are_counted(tmp_path: Path) -> None:
    lines = [f"{i}\thttp://x/{i}".encode() for i in range(1000)]
    lines += [b"and one without address", b"\xe4\thttp://x/latin", b"\thttp://x/mute"]
    lines += [b"0\thttp://x/0", b"another\thttp://x/0", b"0\thttp://x/0"]
    listing, found = read(tmp_path, b"\n".join(lines), CAPTION_URL)
    assert listing == Listing(1003, Counter({NO_URL: 1, NOT_UTF8: 1, NO_CAPTION: 1}), 3, 2)
    assert len(found) == 1003
    assert str(listing).startswith("1,003 pairs, 3 with a URL that is there before, 2 also its caption, 1 x annotation")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": Columns("url", 1)}, "columns"),
        ({"columns": Columns(1, 1)}, "columns"),
        ({"columns": Columns(-1, 0)}, "columns"),
        ({"format": "parquet"}, "parquet file go by name"),
        ({"format": "json"}, "format is one of tsv, csv, parquet, not 'json'"),
        ({"min_success": 1.5}, "min_success"),
        ({"samples_per_shard": 0}, "samples_per_shard"),
    ],
)
def test_a_source_checks_itself(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TCLError, match=f"gcc3m: .*{message}"):
        Source("gcc3m", Path("gcc3m.tsv"), **settings)
