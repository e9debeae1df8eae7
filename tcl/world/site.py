"""The pair site: a list of captions with image addresses, as CC3M's, and a web server to download the images from."""

import io
import os
import socketserver
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tcl.errors import TCLError
from tcl.files import write_text
from tcl.world.jpeg import write_jpeg

LIST = "pairs.tsv"
NOT_AN_IMAGE = b"<!DOCTYPE html>\n<title>Image removed</title>\n<p>This image is no longer available.</p>\n"
"""What a host often sends in place of an image that it has removed."""


def address(number: int) -> str:
    """Address of an image relative to the site: images/000/000123.jpg for 123, a thousand to a folder."""
    return f"images/{number // 1000:03d}/{number:06d}.jpg"


def write_image(folder: Path, number: int, image: NDArray[np.uint8]) -> None:
    """Write an image, uint8 [H, W, 3] RGB, as JPEG of quality 95 under its address."""
    write_jpeg(folder / address(number), image)


def write_broken_image(folder: Path, number: int) -> None:
    """Write something that is not an image under an image's address."""
    path = folder / address(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(NOT_AN_IMAGE)


def write_list(folder: Path, captions: Sequence[str]) -> None:
    """Write pairs.tsv: a line caption<TAB>address for every pair, in order, without a header.

    The addresses are relative; whoever downloads puts the address of the server before them.
    """
    lines = (f"{caption}\t{address(number)}\n" for number, caption in enumerate(captions))
    write_text(folder / LIST, "".join(lines))


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of `folder` on a free port of 127.0.0.1 while the block runs; gives "http://127.0.0.1:<port>/".

    Many requests are answered at once, folders are not listed, and nothing outside the folder is served, whatever
    the request or a symbolic link says. Raises TCLError if there is no such folder.
    """
    if not folder.is_dir():
        raise TCLError(f"the folder to serve must exist; {folder} does not. Build the demo world first")
    root = os.path.realpath(folder)
    with _Server(("127.0.0.1", 0), partial(_Handler, directory=root)) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Closing must not wait for a client that has stopped reading.
    block_on_close = False
    request_queue_size = 512

    def server_bind(self) -> None:
        # HTTPServer would look up its own host name, which can take seconds without a network.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", int(self.server_address[1])

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: object) -> None:
        # A client that hangs up is its own business; anything else is a fault of ours to be seen.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    timeout = 30

    def translate_path(self, path: str) -> str:
        found = os.path.realpath(super().translate_path(path))
        inside = os.path.commonpath([found, self.directory]) == self.directory and os.path.isfile(found)
        return found if inside else os.path.join(self.directory, "\0")

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        if "\0" in self.translate_path(self.path):
            self.send_error(404, "File not found")
            return None
        return super().send_head()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: a download makes thousands of requests."""
