"""From official archives to a laid-out data set, and what is refused on the way."""

import hashlib
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tcl.datasets.archives import Archive, archives_of, lay_out
from tcl.datasets.benchmark import DATASETS, of_dataset
from tcl.datasets.unpack import unpack
from tcl.errors import TCLError
from tests.file_server import FileServer, serving
from tests.tiny_datasets import write_archive

TINY = Archive(
    name="tiny.zip",
    urls=(),
    origin="example.org",
    checksum=None,
    into="set",
    members=("val/*.png",),
    provides=("set/val",),
    instead=None,
)
FILES = {"val/a.png": b"a", "val/deep/b.png": b"b", "train/c.png": b"c", "README": b"r"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    with serving(tmp_path / "site") as found:
        yield found


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("dataset", DATASETS)
def test_archives_provide_what_the_benchmarks_read(dataset: str) -> None:
    archives = archives_of(dataset)
    provided = [path for archive in archives for path in archive.provides]
    for benchmark in of_dataset(dataset):
        assert benchmark.images in provided
    for archive in archives:
        assert archive.checksum is None or len(archive.checksum) == len("md5:") + 32
        assert bool(archive.urls) == (dataset != "cityscapes" and archive.name != "trainval_merged.json")


@pytest.mark.parametrize("name", ["tiny.zip", "tiny.tar"])
def test_needed_files_are_unpacked_once(tmp_path: Path, name: str) -> None:
    archive = replace(TINY, name=name)
    write_archive(tmp_path / name, FILES)
    lay_out([archive], tmp_path / "data", folder=tmp_path)
    before = state(tmp_path)
    assert {path for path in before if path.startswith("data")} == {"data/set/val/a.png", "data/set/val/deep/b.png"}
    recorded = (tmp_path / f"{name}.sha256").read_text()
    assert recorded == f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}\n"
    lay_out([archive], tmp_path / "data", folder=tmp_path)
    assert state(tmp_path) == before
    (tmp_path / name).unlink()
    lay_out([archive], tmp_path / "data", folder=tmp_path)


def test_an_interrupted_unpacking_is_finished_and_files_of_the_user_are_kept(tmp_path: Path) -> None:
    write_archive(tmp_path / TINY.name, FILES)
    lay_out([TINY], tmp_path, folder=tmp_path)
    (tmp_path / "set/val/deep/b.png").unlink()
    (tmp_path / "set/val/a.png").write_bytes(b"the user's own")
    TINY.unfinished(tmp_path).touch()
    lay_out([TINY], tmp_path, folder=tmp_path)
    assert (tmp_path / "set/val/deep/b.png").read_bytes() == b"b"
    assert (tmp_path / "set/val/a.png").read_bytes() == b"the user's own"
    assert not TINY.needed(tmp_path)


def test_a_data_set_that_is_laid_out_needs_no_archive(tmp_path: Path) -> None:
    (tmp_path / "set/val").mkdir(parents=True)
    lay_out([TINY], tmp_path, folder=tmp_path / "archives")
    lay_out([replace(TINY, provides=("set/json",), instead="set/val")], tmp_path, folder=tmp_path / "archives")
    assert not (tmp_path / "archives").exists()


def test_archives_that_nobody_may_fetch_are_all_named_first(tmp_path: Path, server: FileServer) -> None:
    free = replace(TINY, name="free.zip", urls=(f"{server.address}/free.zip",), provides=("set/free",))
    with pytest.raises(TCLError, match=r"(?s)put in .*archives by hand:\n  tiny.zip from example.org\n  other.zip"):
        lay_out([free, TINY, replace(TINY, name="other.zip")], tmp_path, folder=tmp_path / "archives")
    assert not server.requests


def test_a_mirror_is_asked_first_and_publishers_after_it(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "site").mkdir()
    write_archive(tmp_path / "site" / TINY.name, FILES)
    lay_out([TINY], tmp_path / "one", folder=tmp_path / "one", mirror=f"{server.address}/")
    assert (tmp_path / "one/set/val/a.png").is_file()

    published = replace(TINY, urls=(f"{server.address}/gone/{TINY.name}", f"{server.address}/{TINY.name}"))
    server.requests.clear()
    lay_out([published], tmp_path / "two", folder=tmp_path / "two", mirror=f"{server.address}/mirror")
    assert [path for path, _ in server.requests] == ["/mirror/tiny.zip", "/gone/tiny.zip", "/tiny.zip"]
    with pytest.raises(TCLError, match=r"(?s)mirror/tiny.zip.*gone/tiny.zip"):
        lay_out(
            [replace(published, urls=published.urls[:1])], tmp_path, folder=tmp_path, mirror="http://127.0.0.1:9/mirror"
        )


def test_a_wrong_checksum_is_refused(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "site").mkdir()
    write_archive(tmp_path / "site" / TINY.name, FILES)
    published = replace(TINY, checksum=f"md5:{'0' * 32}", urls=(f"{server.address}/{TINY.name}",))
    with pytest.raises(TCLError, match="expected is md5:0000"):
        lay_out([published], tmp_path / "data", folder=tmp_path / "fetched")
    with pytest.raises(TCLError, match=r"tiny.zip does not have the checksum md5:0000.*what example.org gives"):
        lay_out([published], tmp_path / "data", folder=tmp_path / "site")
    assert not (tmp_path / "data").exists()


def test_an_archive_that_has_changed_since_it_was_recorded_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / TINY.name, FILES)
    lay_out([TINY], tmp_path / "one", folder=tmp_path)
    write_archive(tmp_path / TINY.name, {**FILES, "val/new.png": b""})
    with pytest.raises(TCLError, match=r"does not have the checksum sha256:.*recorded before"):
        lay_out([TINY], tmp_path / "two", folder=tmp_path)


def hostile_tar(path: Path, member: tarfile.TarInfo) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("val/a.png", "val/b.png"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        tar.addfile(member, io.BytesIO())


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        (entry("/etc/val/evil.png"), "is absolute"),
        (entry("val/../../evil.png"), "leads upwards"),
        (entry("../evil.png"), "leads upwards"),
        (entry("val/link.png", tarfile.SYMTYPE, "/etc/passwd"), "is a link"),
        (entry("val", tarfile.SYMTYPE, "../.."), "is a link"),
        (entry("val/hard.png", tarfile.LNKTYPE, "val/a.png"), "is a link"),
        (entry("val/pipe.png", tarfile.FIFOTYPE), "a device"),
        (entry("elsewhere/../../evil"), "leads upwards"),
    ],
)
def test_a_hostile_tar_is_refused_whole(tmp_path: Path, member: tarfile.TarInfo, fault: str) -> None:
    hostile_tar(tmp_path / "evil.tar", member)
    with pytest.raises(TCLError, match=f"evil.tar is not unpacked: its entry .*{fault}"):
        unpack(tmp_path / "evil.tar", tmp_path / "out" / "in", members=["val/*.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["evil.tar"]


@pytest.mark.parametrize(
    ("name", "mode", "fault"),
    [
        ("/val/evil.png", 0, "is absolute"),
        ("val/../../evil.png", 0, "leads upwards"),
        ("val\\..\\..\\evil.png", 0, "leads upwards"),
        ("val/link.png", stat.S_IFLNK | 0o777, "is a link"),
    ],
)
def test_a_hostile_zip_is_refused_whole(tmp_path: Path, name: str, mode: int, fault: str) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("val/a.png", b"")
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(TCLError, match=f"evil.zip is not unpacked: its entry .*{fault}"):
        unpack(tmp_path / "evil.zip", tmp_path / "out", members=["val/*.png"])
    assert [path.name for path in tmp_path.iterdir()] == ["evil.zip"]


@pytest.mark.parametrize("name", ["tiny.zip", "tiny.tar"])
def test_damage_is_named_and_mended_by_a_sound_archive(tmp_path: Path, name: str) -> None:
    archive = replace(TINY, name=name)
    files = {f"val/{i}.png": os.urandom(5000) for i in range(3)}
    data = write_archive(tmp_path / name, files).read_bytes()
    for wrong in (data[: len(data) // 2], b"<html>log in first</html>"):
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(TCLError, match=f"{name} is damaged"):
            lay_out([archive], tmp_path, folder=tmp_path)
    assert not (tmp_path / f"{name}.sha256").exists()
    (tmp_path / name).write_bytes(data)
    lay_out([archive], tmp_path, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "set/val").iterdir()} == {
        name.removeprefix("val/"): content for name, content in files.items()
    }


def test_a_zip_with_a_flipped_bit_is_damaged(tmp_path: Path) -> None:
    path = write_archive(tmp_path / TINY.name, {"val/a.png": b"a" * 3000})
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(TCLError, match=r"is damaged \(Bad CRC-32"):
        lay_out([TINY], tmp_path, folder=tmp_path)
    assert not (tmp_path / "set/val/a.png").exists()


def test_an_archive_of_something_else(tmp_path: Path) -> None:
    write_archive(tmp_path / TINY.name, {"train/a.png": b""})
    with pytest.raises(TCLError, match=r"holds no val/\*\.png: is it the right file"):
        lay_out([TINY], tmp_path, folder=tmp_path)
