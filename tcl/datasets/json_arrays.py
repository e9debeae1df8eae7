"""The arrays of a large JSON file, element by element, without the whole of it in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\n\r]*")
_ENDS = tuple(",:]} \t\n\r")
_CHUNK = 1 << 20


class Element(NamedTuple):
    """An element of one of the arrays of the outermost object: its key there, and its bytes in the file.

    In `value` text beyond ASCII is wrong; `read_element` gives it right.
    """

    key: str
    value: Any
    start: int
    length: int


def elements(path: Path) -> Iterator[Element]:
    """All elements of all arrays that are values of the outermost object, in the file's order.

    Raises:
        ValueError: the file is not JSON, or not an object.
    """
    with open(path, "rb") as file:
        text = _Text(file)
        text.take("{")
        while text.peek() != "}":
            key, _, _ = text.value()
            text.take(":")
            if text.peek() == "[":
                yield from _array(text, str(key))
            else:
                text.value()
            if text.peek() != "}":
                text.take(",")


def read_element(file: BinaryIO, start: int, length: int) -> Any:
    """The element at these bytes."""
    file.seek(start)
    return json.loads(file.read(length))


def _array(text: _Text, key: str) -> Iterator[Element]:
    text.take("[")
    while text.peek() != "]":
        yield Element(key, *text.value())
        if text.peek() != "]":
            text.take(",")
    text.take("]")


class _Text:
    """A window on the file. Latin-1, so that a character is a byte and places are those of the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.text, self.start, self.at = file, "", 0, 0

    def peek(self) -> str:
        """The next character that is no space, empty at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self.at = space.end() if space else self.at
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> None:
        """Go past a character. Raises ValueError if another one is next."""
        if (found := self.peek()) != expected:
            raise ValueError(f"{found or 'the end'!r} at byte {self.start + self.at}, expected is {expected!r}")
        self.at += 1

    def value(self) -> tuple[Any, int, int]:
        """The value that is next, the byte it starts at, and its length."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError:
                if not self._more():
                    raise
                continue
            if self.text[end : end + 1] in _ENDS or not self._more():  # a number may go on in the next piece
                start, self.at = self.at, end
                return value, self.start + start, end - start

    def _more(self) -> bool:
        """Read on; what has been passed is forgotten."""
        piece = self.file.read(max(_CHUNK, len(self.text) - self.at))
        self.start += self.at
        self.text, self.at = self.text[self.at :] + piece.decode("latin-1"), 0
        return bool(piece)
