"""img2dataset's downloader with a limit on the time that one image may take.

img2dataset hands its timeout to the socket, where it bounds each read. A server that sends a byte now and then is never
late by that measure: one such address among millions keeps its shard, and so the whole download, from ever ending.
"""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPResponse, IncompleteRead
from typing import Any

from img2dataset.downloader import Downloader

PATIENCE = 6
"""An image may take this many timeouts from the first byte of its answer to the last."""

_PIECE = 1 << 16


class BoundedDownloader(Downloader):
    """Processes one shard when called, wherever the distributor sends it: in a process, a Spark or a Ray worker."""

    def __call__(self, row: Any) -> Any:
        urllib.request.install_opener(urllib.request.build_opener(_Bounded(PATIENCE * self.timeout)))
        return super().__call__(row)


class _Bounded(urllib.request.BaseHandler):
    """Gives each answer a `read` that does not last longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def http_response(self, request: urllib.request.Request, response: HTTPResponse) -> HTTPResponse:
        response.read = lambda: b"".join(_pieces(response, self.seconds))  # type: ignore[assignment, method-assign, misc]
        return response

    https_response = http_response


def _pieces(response: HTTPResponse, seconds: float) -> Iterator[bytes]:
    """The body of an answer. Raises TimeoutError after `seconds`, IncompleteRead if it ends too early."""
    deadline = time.monotonic() + seconds
    while piece := response.read1(_PIECE):
        yield piece
        if time.monotonic() > deadline:
            raise TimeoutError(f"the image was not there after {seconds:.0f} seconds")
    if response.length:
        raise IncompleteRead(b"", response.length)
