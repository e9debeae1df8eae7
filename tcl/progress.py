"""Progress bars: lively on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

ON_TERMINAL, IN_LOG = 0.5, 20.0
"""Seconds between two updates."""


def progress(
    items: Iterable[Any] | None = None, *, title: str, unit: str, total: int, done: int = 0, shown: bool = True
) -> tqdm[Any]:
    """A bar over `items`, or one that is updated by hand; `done` of `total` are finished already."""
    from tqdm import tqdm

    interval = ON_TERMINAL if sys.stderr.isatty() else IN_LOG
    return tqdm(items, desc=title, unit=unit, total=total, initial=done, disable=not shown, mininterval=interval)
