"""A data root that is full, and one that may only be read: real file systems, in a name space of their own."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline.web import serving
from tests.tiny_datasets import write_archive

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def run_on_disk(disk: Path, code: str, *arguments: object, size: str = "1m", before: str = "true") -> str:
    """What `code` prints on standard error with a small file system at `disk`; `before`: a shell command on it."""
    disk.mkdir(exist_ok=True)
    command = " ".join(shlex.quote(str(each)) for each in (sys.executable, "-c", code, disk, *arguments))
    mounted = f"mount -t tmpfs -o size={size} tmpfs {shlex.quote(str(disk))}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mounted], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here, not even in a name space")
    script = f"set -e; {mounted}; cd {shlex.quote(str(disk))}; {before}; cd - >/dev/null; exec {command}"
    ended = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert "Traceback" not in ended.stderr
    return ended.stderr


PREPARE = """
import sys
from pathlib import Path
from tcl.commands.boundary import boundary
from tcl.datasets.prepare import prepare
with boundary("prepare"):
    prepare("coco_stuff164k", Path(sys.argv[1]), workers=int(sys.argv[2]), complete=False)
    print("prepared", file=sys.stderr)
"""

MAKE = """
import sys
from pathlib import Path
import numpy as np
from tests import tiny_datasets as tiny
from tcl.datasets.prepare import prepare
root = Path(sys.argv[1])
tiny.make_coco(root)
for number in range(int(sys.argv[2])):
    tiny.add_image(root / "coco_stuff164k/images/val2017" / f"{number}.jpg", (200, 200))
    tiny.add_labels(root / tiny.COCO / f"{number}.png", np.full((200, 200), 3, np.uint8))
if sys.argv[3:]:
    prepare("coco_stuff164k", root, complete=False)
"""


def make(disk: str, images: int, *prepared: str) -> str:
    return " ".join(shlex.quote(each) for each in (sys.executable, "-c", MAKE, disk, str(images), *prepared))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_conversion_on_a_full_disk(tmp_path: Path, workers: int) -> None:
    before = f"{make('.', 2)}; head -c 100M /dev/zero > filler 2>/dev/null || true"
    said = run_on_disk(tmp_path / "disk", PREPARE, workers, before=before)
    assert "there is no space left on the disk; make room and run again" in said
    assert "files are not right" not in said


def test_a_data_root_that_may_only_be_read(tmp_path: Path) -> None:
    protect = "mount -o remount,ro,size=1m ."
    said = run_on_disk(tmp_path / "disk", PREPARE, 1, before=f"{make('.', 0)}; {protect}")
    assert "the file system is read-only; choose another place with TCL_DATA" in said
    assert "prepared" in run_on_disk(tmp_path / "disk", PREPARE, 1, before=f"{make('.', 0, 'prepared')}; {protect}")


UNPACK = """
import sys
from pathlib import Path
from tcl.commands.boundary import boundary
from tcl.datasets.unpack import unpack
with boundary("prepare"):
    unpack(Path(sys.argv[2]), Path(sys.argv[1]), members=["*"])
"""

FETCH = """
import sys
from pathlib import Path
from tcl.commands.boundary import boundary
from tcl.transfer import fetch
with boundary("prepare"):
    fetch(sys.argv[2], Path(sys.argv[1]) / "a.tar")
"""


def test_what_does_not_fit_is_not_begun(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "a.tar", {f"{i}": bytes(200_000) for i in range(20)})
    said = run_on_disk(tmp_path / "disk", UNPACK, archive)
    assert "4,000,000 bytes are to be unpacked, only" in said
    assert "are free on the disk. Make room." in said


def test_a_file_that_does_not_fit_is_not_fetched(tmp_path: Path) -> None:
    from tests.file_server import serving as serving_files

    write_archive(tmp_path / "a.tar", {f"{i}": bytes(200_000) for i in range(20)})
    with serving_files(tmp_path) as server:
        said = run_on_disk(tmp_path / "disk", FETCH, f"{server.address}/a.tar")
    assert "bytes are to come, only" in said
    assert "are free on the disk. Make room." in said


DOWNLOAD = """
import sys
from pathlib import Path
from tcl.commands.boundary import boundary
from tcl.pairs.download import download
from tcl.pairs.fetch import Workers
from tcl.pairs.source import Source
disk = Path(sys.argv[1])
source = Source("toy", Path(sys.argv[2]), samples_per_shard=200)
with boundary("download"):
    download(source, folder=disk / "toy", manifest_path=disk / "toy.json", workers=Workers(processes=1, threads=4))
"""


def write_list(path: Path, address: str, pairs: int) -> Path:
    path.write_text("".join(f"caption {i}\t{address}/image/{i}.jpg\n" for i in range(pairs)))
    return path


def test_a_download_without_room_for_its_list_or_on_a_disk_to_be_read(tmp_path: Path) -> None:
    annotations = write_list(tmp_path / "list.tsv", "http://127.0.0.1:9", 100_000)
    said = run_on_disk(tmp_path / "disk", DOWNLOAD, annotations, size="100k")
    assert "there is no space left on the disk; make room and run again" in said
    said = run_on_disk(tmp_path / "disk", DOWNLOAD, annotations, before="mount -o remount,ro,size=1m .")
    assert "the file system is read-only; choose another place with TCL_DATA" in said


@pytest.mark.slow
def test_a_disk_that_fills_during_a_download(tmp_path: Path) -> None:
    with serving() as address:
        annotations = write_list(tmp_path / "list.tsv", address, 200)
        said = run_on_disk(tmp_path / "disk", DOWNLOAD, annotations, size="200k")
    assert "there is no space left on the disk; make room and run again" in said
