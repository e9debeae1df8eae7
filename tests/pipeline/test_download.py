"""Downloads with the real img2dataset from a real web server on this machine.

img2dataset takes about ten seconds to start, so a test is a story of several downloads into one folder.
"""

import csv
import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tcl.errors import TCLError
from tcl.pairs.download import download
from tcl.pairs.fetch import Workers
from tcl.pairs.images import decoded, open_image
from tcl.pairs.manifest import Manifest, read_manifest, verify
from tcl.pairs.shards import PairReader
from tcl.pairs.source import Source
from tcl.pairs.tables import Columns
from tests.pipeline.web import FAULTS, FINE, Handler, jpeg, serving

PAIRS = 60
LOST = dict(zip((5, 17, 23, 27, 44, 45, 46, 47), FAULTS, strict=True))
"""Faults by the number of the pair; those that take long are in the last shard."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def fresh_server() -> None:
    Handler.hits.clear()
    Handler.delay, Handler.hangs, Handler.out_of_order = 0.0, False, False


def path_of(number: int) -> str:
    return f"/{LOST.get(number) or FINE[number % len(FINE)]}/{number}.jpg"


def caption_of(number: int) -> str:
    return f"picture\tnumber {number}"


@pytest.fixture(scope="module")
def source(address: str, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """60 pairs in shards of 20, as CC3M's file has them, with a byte order mark and tabs in the captions."""
    path = tmp_path_factory.mktemp("annotations") / "list.tsv"
    lines = "".join(f"{caption_of(i)}\t{address}{path_of(i)}\n" for i in range(PAIRS))
    path.write_text("\ufeff" + lines, encoding="utf-8")
    return Source("toy", path, samples_per_shard=20, timeout=2)


def run(source: Source, folder: Path, distributor: str = "local", threads: int = 8) -> Manifest:
    workers = Workers(distributor, processes=1, threads=threads)
    return download(
        source, folder=folder / "toy", manifest_path=folder / "toy.json", workers=workers, restore="fetch toy"
    )


@pytest.fixture(scope="module")
def whole(source: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """A finished download and its folder: nothing arrived at first, then too little, then enough."""
    folder = tmp_path_factory.mktemp("whole")
    Handler.out_of_order = True
    with pytest.raises(TCLError, match="0 of 60 pairs were downloaded") as nothing:
        run(source, folder)
    assert "60 x HTTP Error 500: Internal Server Error" in str(nothing.value)

    Handler.out_of_order = False
    Handler.hits.clear()
    with pytest.raises(TCLError, match=r"52 of 60 pairs were downloaded \(86\.7%\), at least 95\.0%") as little:
        run(replace(source, min_success=0.95), folder)
    assert "2 x Image decoding error" in str(little.value)
    assert not (folder / "toy.json").exists()
    return folder, run(replace(source, min_success=0.8), folder)


def test_pairs_arrive_and_losses_are_counted(whole: tuple[Path, Manifest], source: Source) -> None:
    folder, manifest = whole
    assert manifest.counts.listed == PAIRS
    assert manifest.counts.succeeded == PAIRS - len(LOST)
    assert manifest.counts.failures == Counter(FAULTS[fault] for fault in LOST.values())
    assert manifest.annotations == {"pairs": PAIRS, "repeated_urls": 0, "repeated_pairs": 0}
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [
        ("00000.tar", 18),
        ("00001.tar", 18),
        ("00002.tar", 16),
    ]
    assert read_manifest(folder / "toy.json") == manifest
    verify(manifest, folder / "toy", hashes=True)
    check_pairs(PairReader(folder / "toy", manifest))
    check_other_pairs_are_refused(source, folder)


def check_pairs(reader: PairReader) -> None:
    expected = [i for i in range(PAIRS) if i not in LOST]
    pairs = [reader.read(i) for i in range(len(reader))]
    assert [pair.caption for pair in pairs] == [caption_of(i) for i in expected]
    for number, pair in zip(expected, pairs, strict=True):
        picture = decoded(open_image(pair.image))
        assert picture.size == (64, 48)
        assert abs(np.array(picture).mean() - number * 4) < 2


def check_other_pairs_are_refused(source: Source, folder: Path) -> None:
    with pytest.raises(TCLError, match="3 shards of 'toy' from a download with other image_size"):
        run(replace(source, image_size=32), folder)
    foreign = folder / "toy" / "mirror-0.tar"
    foreign.write_bytes(b"")
    with pytest.raises(TCLError, match=r"1 shards that no download of 'toy' made, mirror-0\.tar first.*data adopt toy"):
        run(source, folder)
    foreign.unlink()


def test_interrupted_and_resumed_to_the_same_manifest(
    tmp_path: Path, source: Source, whole: tuple[Path, Manifest]
) -> None:
    """A hang ends; a killed download leaves nothing running; what is finished is kept, what is truncated repaired."""
    check_a_hang_ends(replace(source, timeout=90, stall=45.0), tmp_path)
    check_a_kill_leaves_nothing_running(source, tmp_path)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").glob("*_stats.json")}
    assert len(finished) == 2
    tar = tmp_path / "toy" / "00000.tar"
    with open(tar, "r+b") as file:
        file.truncate(tar.stat().st_size // 2)

    Handler.delay = 0.0
    before = Handler.hits.copy()
    assert run(source, tmp_path) == whole[1]
    again = Handler.hits - before
    assert {int(path.split("/")[2].removesuffix(".jpg")) for path in again} == {*range(20), *range(40, PAIRS)}
    assert run(source, tmp_path) == whole[1]


def check_a_hang_ends(source: Source, folder: Path) -> None:
    Handler.hangs = True
    with pytest.raises(TCLError, match="nothing was written for 45 seconds"):
        run(source, folder)
    assert Handler.hits
    assert not workers_of(folder / "toy")
    assert not list((folder / "toy").glob("*.tar"))
    Handler.hangs = False


def check_a_kill_leaves_nothing_running(source: Source, folder: Path) -> None:
    Handler.delay = 0.5
    script = (
        "import sys; from pathlib import Path; from tests.pipeline.test_download import run, Source; "
        "run(Source('toy', Path(sys.argv[1]), samples_per_shard=20, timeout=2), Path(sys.argv[2]), threads=4)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", script, str(source.annotations), str(folder)], env=environment)
    wait_for(lambda: (folder / "toy" / "00002.tar").exists(), seconds=300)
    assert len(workers_of(folder / "toy")) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "toy.json").exists()
    wait_for(lambda: not workers_of(folder / "toy"), seconds=30)


def workers_of(folder: Path) -> list[int]:
    """Processes that work on `folder`: those that hold its lock of workers open."""
    lock = folder / ".download" / "workers.lock"
    found = []
    for process in Path("/proc").iterdir():
        try:
            if any(Path(os.readlink(link)) == lock for link in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for(condition: Callable[[], object], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_relative_addresses_are_served_from_a_folder(tmp_path: Path) -> None:
    """A CSV file beside its images; shards of other pairs, which an earlier world left, make way."""
    site = tmp_path / "site"
    (site / "images").mkdir(parents=True)
    for number in range(12):
        (site / "images" / f"{number}.jpg").write_bytes(jpeg(number))
    with open(site / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([("id", "text", "link"), *((i, f"a, {i}", f"images/{i}.jpg") for i in range(12))])
    work = tmp_path / "toy" / ".download"
    work.mkdir(parents=True)
    (work / "request.json").write_text(json.dumps({"annotations_sha256": "of an earlier world"}))
    for number in range(3):
        (tmp_path / "toy" / f"{number:05d}.tar").write_bytes(b"\0" * 1024)

    source = Source(
        "world", site / "pairs.csv", format="csv", columns=Columns("link", "text"), serve=site, samples_per_shard=6
    )
    manifest = run(source, tmp_path, distributor="ray")  # of no use to a loopback address, so it is not asked
    assert [shard.samples for shard in manifest.shards] == [6, 6]
    assert PairReader(tmp_path / "toy", manifest).read(0).caption == "a, 0"


def test_swapped_columns_download_nothing(tmp_path: Path, source: Source) -> None:
    with pytest.raises(TCLError, match=r"set this source's columns to \{url: 1, caption: 0\}"):
        run(replace(source, columns=Columns(url=0, caption=1)), tmp_path)
    assert not Handler.hits
    assert not list((tmp_path / "toy").glob("*.tar"))


def test_one_download_at_a_time(tmp_path: Path, source: Source) -> None:
    work = tmp_path / "toy" / ".download"
    work.mkdir(parents=True)
    with open(work / "download.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TCLError, match="Another download is at work"):
            run(source, tmp_path)
    assert not Handler.hits


@pytest.mark.slow
@pytest.mark.parametrize("distributor", ["pyspark", "ray"])
def test_a_cluster_brings_the_same(
    tmp_path: Path, source: Source, whole: tuple[Path, Manifest], distributor: str
) -> None:
    if importlib.util.find_spec(distributor) is None:
        pytest.skip(f"{distributor} is an optional extra")
    assert run(source, tmp_path, distributor) == whole[1]


def test_distributors_that_are_not_there(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TCLError, match="is one of local, pyspark, ray, not 'slurm'"):
        run(source, tmp_path, "slurm")
    monkeypatch.setattr(sys, "path", [])  # neither package can be found then
    for name in ("pyspark", "ray"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(TCLError, match=rf"needs the package {name}: pip install -e '\.\[{name}\]'"):
            run(source, tmp_path, name)
    assert not list(tmp_path.iterdir())
