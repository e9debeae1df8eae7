"""A web server on loopback, for pairs whose images lie in a folder of this machine."""

import io
import os
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from typing import BinaryIO

from tcl.errors import TCLError


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve the files of `folder` on a free port of 127.0.0.1 while the block runs; gives "http://127.0.0.1:<port>/".

    Many requests are answered at once, folders are not listed, and nothing outside the folder is served, whatever
    the request or a symbolic link says. Raises TCLError if there is no such folder.
    """
    if not folder.is_dir():
        raise TCLError(f"the folder to serve must exist; {folder} does not. Make it first")
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
