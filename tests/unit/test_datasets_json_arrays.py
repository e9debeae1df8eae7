"""Arrays of a large JSON file, read piece by piece."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcl.datasets import json_arrays
from tcl.datasets.json_arrays import elements, read_element

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    content=st.dictionaries(st.text(), values, max_size=5), indent=st.sampled_from([None, 1]), ascii_only=st.booleans()
)
def test_elements_are_those_of_the_whole_file(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    whole, json_arrays._CHUNK = json_arrays._CHUNK, 3
    try:
        found = list(elements(path))
    finally:
        json_arrays._CHUNK = whole
    with open(path, "rb") as file:
        read = [read_element(file, element.start, element.length) for element in found]
    assert read == [item for value in content.values() if isinstance(value, list) for item in value]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": [1, 2', '{"a" [1]}', '{"a": [1 2]}', '{"a": 1 "b": 2}'])
def test_what_is_no_object_of_arrays_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"byte|Expecting"):
        list(elements(tmp_path / "a.json"))
