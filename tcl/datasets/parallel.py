"""One function over many files: in processes, with progress, and with every fault reported at the end."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from tcl.errors import TCLError
from tcl.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")

_SHOWN = 20
_PER_WORKER = 256  # items handed over at a time: enough to keep a worker busy, few enough to keep memory flat


def each(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, title: str, total: int | None = None
) -> list[Result]:
    """`function` of every item, in order, over `workers` processes; with one worker in this process.

    `function` must be importable by name and should return what is wrong with a file rather than raise. Where there are
    many items, a generator and their number `total` keep memory flat: they are taken as workers get to them.

    Raises:
        TCLError: `workers` is below 1, or a worker died.
    """
    if workers < 1:
        raise TCLError(f"workers must be at least 1, got {workers}.")
    if total is None:
        items = list(items)
        total = len(items)
    workers = min(workers, total)
    run = map(function, items) if workers <= 1 else _spread(function, iter(items), workers)
    return list(progress(run, title=title, unit="file", total=total, shown=total > 0))


def _spread(function: Callable[[Item], Result], items: Iterator[Item], workers: int) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            with _ctrl_c_for_the_main_process():
                pool.submit(int)  # starts the workers
            while batch := list(islice(items, _PER_WORKER * workers)):
                yield from pool.map(function, batch, chunksize=8)
        except BrokenProcessPool as error:
            raise TCLError(
                "A worker process died, perhaps for lack of memory. Try again with fewer workers."
            ) from error


@contextmanager
def _ctrl_c_for_the_main_process() -> Iterator[None]:
    """Let processes that are started meanwhile ignore Ctrl-C, from their first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _end_with_parent() -> None:
    """Leave no worker behind when the main process is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def refuse(problems: Iterable[str | None], *, title: str, advice: str) -> None:
    """Do nothing if every entry is None.

    Raises:
        TCLError: there are problems; the message counts them, shows the first 20 and ends with `advice`.
    """
    found = [problem for problem in problems if problem is not None]
    if not found:
        return
    more = [f"  ... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    count = "1 file is" if len(found) == 1 else f"{len(found)} files are"
    lines = [f"{title}: {count} not right.", *(f"  {problem}" for problem in found[:_SHOWN]), *more, advice]
    raise TCLError("\n".join(lines))
