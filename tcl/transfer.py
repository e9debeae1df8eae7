"""One large file over HTTP: resumed where it broke off, checked, and in its place only when it is whole."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse, IncompleteRead
from pathlib import Path
from typing import BinaryIO

from tcl.errors import TCLError
from tcl.files import checksum, write_text
from tcl.progress import progress

ATTEMPTS = 4
"""Tries in a row that bring nothing; one that brings something starts the count anew."""

_TIMEOUT = 60.0
_BLOCK = 1 << 20
_BROKEN = (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError)
_FINAL = {400, 401, 403, 404, 405, 410, 451}  # answers that another try does not change


def fetch(url: str, path: str | Path, *, expected: str | None = None) -> None:
    """Download `url` to `path` with progress; what an earlier call left in `.<name>.part` beside it is continued.

    expected: the checksum as "algorithm:hexadecimal", e.g. "md5:...". Raises TCLError if the file cannot be had, comes
    incomplete, does not have that checksum (it is removed then), or does not fit on the disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with open(part, "ab") as file:
        _lock(file, path)
        try:
            _insist(url, file, part)
        except _BROKEN as error:
            if not part.stat().st_size:
                _discard(part)
            advice = f"Fetch {url} on a machine that can, and put it at {path}; or run again to carry on."
            raise TCLError(f"{path}: not there, and could not be fetched ({error}). {advice}") from error
        file.flush()
        if expected and (found := _checksum_like(part, expected)) != expected:
            _discard(part)
            raise TCLError(f"{url} has the checksum {found}, expected is {expected}: not the right file. Removed.")
        _tag(part).unlink(missing_ok=True)
        part.replace(path)


def matches(path: Path, expected: str) -> bool:
    """Whether a file has the checksum "algorithm:hexadecimal"."""
    return _checksum_like(path, expected) == expected


def _checksum_like(path: Path, expected: str) -> str:
    algorithm = expected.partition(":")[0]
    return f"{algorithm}:{checksum(path, algorithm)}"


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TCLError(f"{path}: another process is fetching it. Wait for its end.") from None


def _insist(url: str, file: BinaryIO, part: Path) -> None:
    """Carry on with the download until it is whole; after `ATTEMPTS` in vain the last error is raised."""
    in_vain = 0
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            _carry_on(url, file, part)
            return
        except _BROKEN as error:
            in_vain = 0 if file.seek(0, os.SEEK_END) > before else in_vain + 1
            if in_vain == ATTEMPTS or _is_final(error):
                raise
            time.sleep(2 ** (in_vain - 1) if in_vain else 0)


def _is_final(error: Exception) -> bool:
    """Whether another try would bring the same."""
    nobody_there = isinstance(getattr(error, "reason", None), (ConnectionRefusedError, socket.gaierror))
    return nobody_there or getattr(error, "code", None) in _FINAL


def _carry_on(url: str, file: BinaryIO, part: Path) -> None:
    """One request, for what is not there yet if the server still has the same file, else for all of it."""
    size = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"User-Agent": "tcl-segmentation"})
    if size and _tag(part).is_file():
        request.add_header("Range", f"bytes={size}-")
        request.add_header("If-Range", _tag(part).read_text(encoding="latin-1"))
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
            if answer.status != 206:
                _start(file, part, answer)
            _copy(answer, file, part)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # more is there than the server has
            file.truncate(0)
        raise


def _start(file: BinaryIO, part: Path, answer: HTTPResponse) -> None:
    """Forget what is there, and keep the tag by which this very file can be asked for again."""
    file.truncate(0)
    tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    if tag and not tag.startswith("W/"):
        write_text(_tag(part), tag)
    else:
        _tag(part).unlink(missing_ok=True)


def _copy(answer: HTTPResponse, file: BinaryIO, part: Path) -> None:
    size = file.seek(0, os.SEEK_END)
    left = int(answer.headers.get("Content-Length") or 0)
    if left > (free := shutil.disk_usage(part.parent).free):
        raise TCLError(f"{part.parent}: {left:,} bytes are to come, only {free:,} are free on the disk. Make room.")
    name = part.name[1:].removesuffix(".part")
    with progress(title=name, unit="B", total=size + left, done=size) as bar:
        bar.unit_scale = True
        while block := answer.read(_BLOCK):
            file.write(block)
            left -= len(block)
            bar.update(len(block))
    if left > 0:
        raise IncompleteRead(b"", left)


def _tag(part: Path) -> Path:
    return part.with_suffix(".tag")


def _discard(part: Path) -> None:
    part.unlink()
    _tag(part).unlink(missing_ok=True)
