"""The archives in which the data sets are published: which one is needed, fetching, checking and unpacking it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from tcl.datasets.unpack import unpack
from tcl.errors import TCLError
from tcl.files import replacing, sha256, write_text
from tcl.transfer import fetch, matches


@dataclass(frozen=True)
class Archive:
    """One published file; `archives.yaml` says what the fields mean."""

    name: str
    urls: tuple[str, ...]
    origin: str
    checksum: str | None
    into: str
    members: tuple[str, ...]
    provides: tuple[str, ...]
    instead: str | None

    def needed(self, root: Path) -> bool:
        """Whether what it provides is missing below `root`, or only half unpacked."""
        if self.unfinished(root).exists():
            return True
        if self.instead and (root / self.instead).exists():
            return False
        return not all((root / path).exists() for path in self.provides)

    def unfinished(self, root: Path) -> Path:
        """A file that is there while the archive is being unpacked."""
        return root / f".unpacking-{self.name}"


def archives_of(dataset: str) -> tuple[Archive, ...]:
    """The archives that hold a data set, one of `tcl.datasets.benchmark.DATASETS`."""
    content = yaml.safe_load(Path(__file__).with_name("archives.yaml").read_text(encoding="utf-8"))
    tuples = ("urls", "members", "provides")
    return tuple(Archive(**{**each, **{key: tuple(each[key]) for key in tuples}}) for each in content[dataset])


def lay_out(archives: Sequence[Archive], root: Path, *, folder: Path, mirror: str | None = None) -> None:
    """Bring what the archives provide below `root`; what is there already is neither fetched nor touched.

    folder: where archives are looked for, and put when they are fetched. mirror: the address of a folder that holds
    them too, asked first, also for those that their publishers do not let anyone fetch.

    Raises:
        TCLError: an archive is missing and cannot be fetched (all of those are named before anything is fetched), does
            not have its checksum, is damaged, or holds a path that leads out of the data root.
    """
    needed = [archive for archive in archives if archive.needed(root)]
    if absent := [each for each in needed if not (folder / each.name).is_file() and not each.urls and not mirror]:
        lines = "\n".join(f"  {each.name} from {each.origin}" for each in absent)
        raise TCLError(f"Archives are missing that have to be put in {folder} by hand:\n{lines}")
    for archive in needed:
        path = folder / archive.name
        expected = archive.checksum or _recorded(path)
        if not path.is_file():
            _fetch(archive, path, expected, mirror)
        elif expected and not matches(path, expected):
            advice = f"It may be damaged, or not what {archive.origin} gives: delete it and run again."
            raise TCLError(f"{path} does not have the checksum {expected}, published or recorded before. {advice}")
        _lay_out(archive, path, root)
        if expected is None:
            _record(path)


def _fetch(archive: Archive, path: Path, expected: str | None, mirror: str | None) -> None:
    places = [f"{mirror.rstrip('/')}/{archive.name}"] if mirror else []
    failures = []
    for url in (*places, *archive.urls):
        try:
            fetch(url, path, expected=expected)
            return
        except TCLError as error:
            failures.append(str(error))
    raise TCLError("\n".join(failures))


def _record_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    record = _record_of(path)
    return f"sha256:{record.read_text(encoding='utf-8').split()[0]}" if record.is_file() else None


def _record(path: Path) -> None:
    """Keep the checksum of an archive that has none published, as `sha256sum` writes it, once it has proved sound."""
    with suppress(OSError):  # a folder of archives that is only to be read
        write_text(_record_of(path), f"{sha256(path)}  {path.name}\n")


def _lay_out(archive: Archive, path: Path, root: Path) -> None:
    marker = archive.unfinished(root)
    root.mkdir(parents=True, exist_ok=True)
    marker.touch()
    if archive.members:
        unpack(path, root / archive.into, members=archive.members)
    else:
        _copy(path, root / archive.into / path.name)
    marker.unlink()


def _copy(path: Path, target: Path) -> None:
    """Put a file in its place: a second name for it, or a copy on another disk."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except OSError:
        with replacing(target) as temporary:
            shutil.copyfile(path, temporary)
