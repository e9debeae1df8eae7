"""What the page's server lets through: the page's own routes, bodies of bounded size, nothing from elsewhere.

Gradio serves more than this page needs: addresses fetched on a visitor's behalf, proxies, monitoring, a programming
interface. A list of what is needed is shorter than one of what could be wrong with the rest.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

PAGE_ROUTES = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/pwa_icon(/\d+)?|/robots\.txt"
    r"|/(assets|static|svelte)/.+"
    r"|/gradio_api/(app_id|cancel|heartbeat/\w+|info|queue/(join|data)|reset|startup-events|theme\.css|upload_progress)/?"
    r"|/gradio_api/upload"
    r"|/gradio_api/file=.+"
)
ADDRESS = re.compile(r"/gradio_api/file=\s*\w+:/", re.IGNORECASE)
UPLOAD = "/gradio_api/upload"
LARGEST_BODY = 256 * 1024
"""Bytes of any request but an upload: a question with all its words is far below."""

# The page's scripts build functions from text; nothing may come from, or go to, any other server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class Guard:
    """ASGI middleware around Gradio's application; largest_upload: bytes of an upload, its form included."""

    def __init__(self, app: Any, *, largest_upload: int) -> None:
        self.app = app
        self.largest_upload = largest_upload

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = unquote(scope["path"])
        if not PAGE_ROUTES.fullmatch(path) or ADDRESS.match(path):
            await _refuse(send, 404, "There is nothing here.")
            return
        limit = self.largest_upload if path == UPLOAD else LARGEST_BODY
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await _refuse(send, 413, f"At most {limit >> 10} KiB can be sent at a time.")
            return
        await self.app(scope, _bounded(receive, limit), _with_headers(send))


def _bounded(receive: Any, limit: int) -> Any:
    """A receiver that ends the connection once more than `limit` bytes have come, whatever was declared."""
    seen = 0

    async def bounded() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > limit else message

    return bounded


def _with_headers(send: Any) -> Any:
    async def headed(message: Any) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
        await send(message)

    return headed


async def _refuse(send: Any, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
