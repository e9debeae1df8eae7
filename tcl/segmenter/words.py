"""What a user types, as labels: a name, and the names that mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tcl.errors import TCLError

MAX_LABELS = 1000
MAX_LENGTH = 200


class Label(NamedTuple):
    """One thing to find: what it is called in results, and every name that is asked for."""

    name: str
    names: tuple[str, ...]


def parse_labels(words: str | Sequence[str], *, kind: str = "words", most: int = MAX_LABELS) -> tuple[Label, ...]:
    """Labels from words; "sofa, couch" is one label with two names, called by the first.

    kind: what errors call them. Raises TCLError if there are more than `most`, or one is empty, longer than 200
    characters or named twice.
    """
    given = [words] if isinstance(words, str) else list(words)
    if len(given) > most:
        raise TCLError(f"{kind}: at most {most} at a time, got {len(given)}.")
    labels = [_label(word, kind) for word in given]
    seen: set[str] = set()
    for label in labels:
        if label.name.lower() in seen:
            raise TCLError(f"{kind}: {label.name!r} is given twice.")
        seen.add(label.name.lower())
    return tuple(labels)


def _label(word: str, kind: str) -> Label:
    if not isinstance(word, str):
        raise TCLError(f"{kind}: each must be a text; got {type(word).__name__}.")
    names = tuple(dict.fromkeys(" ".join(name.split()) for name in word.split(",") if name.strip()))
    if not names:
        raise TCLError(f"{kind}: one is empty. Each must name something, such as 'dog' or 'sofa, couch'.")
    if len(word) > MAX_LENGTH:
        raise TCLError(f"{kind}: one has {len(word)} characters; at most {MAX_LENGTH} are allowed: {word[:40]}...")
    return Label(names[0], names)
