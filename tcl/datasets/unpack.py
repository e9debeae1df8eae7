"""Unpacking tar and zip archives that nobody vouches for: no file of theirs lands outside the folder meant for them."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from tcl.errors import TCLError
from tcl.files import replacing
from tcl.progress import progress

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)


class Member(NamedTuple):
    """A file in an archive: its path there, its size in bytes, and how to read it."""

    path: PurePosixPath
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, target: Path, *, members: Sequence[str]) -> None:
    """Write the archive's files that match one of the patterns `members` below `target`, each atomically.

    Files that are there already are left as they are, so an interrupted call can be repeated.

    Raises:
        TCLError: the archive is encrypted, holds none of the files, or does not fit on the disk, or any entry of it is
            absolute, leads upwards, or is a link or a device: nothing is written then. Or it is damaged.
    """
    with _reading(archive) as entries:
        wanted = [each for each in entries if any(fnmatchcase(str(each.path), pattern) for pattern in members)]
        if not wanted:
            raise TCLError(f"{archive} holds no {' and no '.join(members)}: is it the right file?")
        pending = [member for member in wanted if not (target / member.path).exists()]
        _check_space(target, sum(member.size for member in pending))
        title = f"{archive.name}: unpacking"
        for member in progress(pending, title=title, unit="file", total=len(pending), shown=bool(pending)):
            with member.open() as source, replacing(target / member.path) as temporary, open(temporary, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)


@contextmanager
def _reading(archive: Path) -> Iterator[list[Member]]:
    """The files of an archive, all of whose entries are harmless, open while the block runs."""
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as opened:
                yield list(_zip_members(archive, opened))
        else:
            with tarfile.open(archive, "r:") as tar:
                yield list(_tar_members(archive, tar))
    except _DAMAGE as error:
        raise TCLError(f"{archive} is damaged ({error}). Delete it and run again, to have it fetched anew.") from error


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterator[Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        path = _harmless(archive, info.filename, regular=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        if info.flag_bits & 1:
            raise TCLError(f"{archive} is encrypted: unpack it by hand.")
        if not info.is_dir():
            yield Member(path, info.file_size, partial(opened.open, info))


def _tar_members(archive: Path, tar: tarfile.TarFile) -> Iterator[Member]:
    for info in tar:
        path = _harmless(archive, info.name, regular=info.isreg() or info.isdir())
        if info.isreg():
            yield Member(path, info.size, partial(_extract, tar, info))


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(info)
    assert file is not None  # it is a regular file
    return file


def _harmless(archive: Path, name: str, *, regular: bool) -> PurePosixPath:
    """The path of an entry. Raises TCLError if it leads out of the folder, or is no file and no folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    fault = "is a link or a device" if not regular else "is absolute" if path.is_absolute() else "leads upwards"
    if not regular or path.is_absolute() or ".." in path.parts:
        raise TCLError(f"{archive} is not unpacked: its entry {name!r} {fault}. Where is it from?")
    return path


def _check_space(target: Path, needed: int) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if needed > (free := shutil.disk_usage(target).free):
        raise TCLError(f"{target}: {needed:,} bytes are to be unpacked, only {free:,} are free on the disk. Make room.")
