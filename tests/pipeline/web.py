"""A web server on this machine that serves images, and everything else that the web serves in their place."""

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import PIL.Image

FAULTS = {
    "dead": "HTTP Error 404: Not Found",
    "page": "Image decoding error",  # a page of text that calls itself an image
    "empty": "Image decoding error",
    "cut": "IncompleteRead(N bytes read, N more expected)",
    "silent": "timed out",
    "drip": "the image was not there after 12 seconds",  # a byte now and then, without end
    "loop": "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.",
    "private": "Use of image disallowed by X-Robots-Tag directive",
}
"""What is wrong at /<fault>/<number>.jpg, and why img2dataset says that it failed (with a timeout of 2 seconds)."""

FINE = ("image", "slow", "moved", "text", "chunked")
"""Ways to get an image at /<way>/<number>.jpg: at once, late, redirected, of another content type, in pieces."""


def jpeg(number: int) -> bytes:
    pixels = np.full((48, 64, 3), number * 4, dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    delay = 0.0  # seconds before each answer
    hangs = False  # whether no answer is ever given
    out_of_order = False  # whether every answer is an error
    hits: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        way, number = self.path.strip("/").removesuffix(".jpg").split("/")
        self.hits[self.path] += 1
        time.sleep(60 if self.hangs else self.delay)
        if self.out_of_order:
            self.send_error(500)
        else:
            getattr(self, way)(int(number))

    def image(self, number: int, kind: str = "image/jpeg", headers: dict[str, str] | None = None) -> None:
        self.answer(jpeg(number), kind, headers=headers)

    def slow(self, number: int) -> None:
        time.sleep(1)
        self.image(number)

    def moved(self, number: int) -> None:
        self.redirect(f"/image/{number}.jpg")

    def text(self, number: int) -> None:
        self.image(number, "text/html")

    def chunked(self, number: int) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in (jpeg(number)[:100], jpeg(number)[100:], b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def dead(self, number: int) -> None:
        self.send_error(404)

    def page(self, number: int) -> None:
        self.answer(b"<html>gone</html>", "image/jpeg")

    def empty(self, number: int) -> None:
        self.answer(b"", "image/jpeg")

    def cut(self, number: int) -> None:
        self.answer(jpeg(number)[:200], "image/jpeg", length=len(jpeg(number)))

    def silent(self, number: int) -> None:
        time.sleep(60)

    def drip(self, number: int) -> None:
        self.answer(b"", "image/jpeg", length=1000)
        while True:
            self.wfile.write(b"x")
            time.sleep(0.5)

    def loop(self, number: int) -> None:
        self.redirect(self.path)

    def private(self, number: int) -> None:
        self.image(number, headers={"X-Robots-Tag": "noai"})

    def redirect(self, place: str) -> None:
        self.send_response(302)
        self.send_header("Location", place)
        self.end_headers()

    def answer(
        self, data: bytes, kind: str, *, length: int | None = None, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients hang up: say nothing."""


@contextmanager
def serving() -> Iterator[str]:
    """The server's address, without a slash at its end."""
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
