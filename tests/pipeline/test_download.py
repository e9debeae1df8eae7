"""Downloads with the real img2dataset from a real web server on this machine."""

import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL.Image
import pytest

from tcl.errors import TCLError
from tcl.pairs.download import download
from tcl.pairs.manifest import Manifest, read_manifest, verify
from tcl.pairs.shards import PairReader
from tcl.pairs.source import Source
from tcl.pairs.transforms import decode

PAIRS = 60
DEAD, BROKEN = (5, 17, 44), 23


def jpeg(number: int) -> bytes:
    pixels = np.full((48, 64, 3), number * 4, dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """/<number>.jpg is an image; some are missing, one is broken; /hang/ does not answer."""

    delay = 0.0  # seconds before each answer
    out_of_order = False  # whether every answer is an error
    hits: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        self.hits[self.path] += 1
        time.sleep(self.delay)
        name = self.path.strip("/").removesuffix(".jpg")
        if name.startswith("hang"):
            time.sleep(60)
        elif self.out_of_order or int(name) in DEAD:
            self.send_error(500 if self.out_of_order else 404)
        else:
            data = b"<html>gone</html>" if int(name) == BROKEN else jpeg(int(name))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


@pytest.fixture
def address() -> Iterator[str]:
    Handler.hits.clear()
    Handler.delay, Handler.out_of_order = 0.0, False
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def write_source(folder: Path, address: str, *, columns: tuple[str, str] = ("caption", "url")) -> Source:
    """A source of 60 pairs in shards of 20, three of them dead and one broken."""
    rows = [{"caption": f"picture\tnumber {i}", "url": f"{address}/{i}.jpg"} for i in range(PAIRS)]
    path = folder / "list.tsv"
    path.write_text("".join(f"{row['caption']}\t{row['url']}\n" for row in rows))
    return Source("toy", path, columns=columns, samples_per_shard=20, timeout=5)


def run(source: Source, folder: Path) -> Manifest:
    return download(source, folder=folder / "toy", manifest_path=folder / "toy.json", processes=1, threads=8)


def test_pairs_arrive_and_losses_are_counted(tmp_path: Path, address: str) -> None:
    source = write_source(tmp_path, address)
    with pytest.raises(TCLError, match=r"56 of 60 pairs were downloaded \(93\.3%\), at least 95\.0% are required"):
        run(replace(source, min_success=0.95), tmp_path)
    assert not (tmp_path / "toy.json").exists()

    manifest = run(replace(source, min_success=0.9), tmp_path)
    assert manifest.counts.listed == PAIRS
    assert manifest.counts.succeeded == PAIRS - 4
    assert manifest.counts.failures == {"HTTP Error 404: Not Found": 3, "Image decoding error": 1}
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [
        ("00000.tar", 18),
        ("00001.tar", 19),
        ("00002.tar", 19),
    ]
    assert read_manifest(tmp_path / "toy.json") == manifest
    verify(manifest, tmp_path / "toy", hashes=True)
    assert set(Handler.hits.values()) == {1}
    check_pairs(PairReader(tmp_path / "toy", manifest))
    check_repair_of_a_truncated_shard(source, tmp_path, manifest)
    check_other_pairs_are_refused(source, tmp_path)


def check_pairs(reader: PairReader) -> None:
    expected = [i for i in range(PAIRS) if i not in (*DEAD, BROKEN)]
    pairs = [reader.read(i) for i in range(len(reader))]
    assert [pair.caption for pair in pairs] == [f"picture\tnumber {i}" for i in expected]
    for number, pair in zip(expected, pairs, strict=True):
        picture = decode(pair.image, key=pair.key)
        assert picture.size == (64, 48)
        assert abs(np.array(picture).mean() - number * 4) < 2


def check_repair_of_a_truncated_shard(source: Source, folder: Path, manifest: Manifest) -> None:
    """verify finds it, and the next download fetches that shard alone, to the same manifest."""
    tar = folder / "toy" / "00001.tar"
    with open(tar, "r+b") as file:
        file.truncate(tar.stat().st_size // 2)
    with pytest.raises(TCLError, match=r"00001\.tar: has \d+ bytes"):
        verify(manifest, folder / "toy", hashes=False)
    assert run(source, folder) == manifest
    assert Handler.hits["/20.jpg"] == 2
    assert Handler.hits["/0.jpg"] == Handler.hits["/40.jpg"] == 1


def check_other_pairs_are_refused(source: Source, folder: Path) -> None:
    with pytest.raises(TCLError, match="3 shards of 'toy' from a download with other image_size"):
        run(replace(source, image_size=32), folder)
    (folder / "toy" / "mirror-0.tar").write_bytes(b"")
    with pytest.raises(TCLError, match=r"1 shards that no download of 'toy' made, mirror-0\.tar first"):
        run(source, folder)


def test_swapped_columns_download_nothing(tmp_path: Path, address: str) -> None:
    source = write_source(tmp_path, address, columns=("url", "caption"))
    with pytest.raises(TCLError, match=r"set this source's columns to \[caption, url\]"):
        run(source, tmp_path)
    assert not Handler.hits
    assert not list((tmp_path / "toy").glob("*.tar"))


def test_nothing_arriving_is_an_error_and_is_tried_again(tmp_path: Path, address: str) -> None:
    source = write_source(tmp_path, address)
    Handler.out_of_order = True
    with pytest.raises(TCLError, match="0 of 60 pairs were downloaded") as error:
        run(source, tmp_path)
    assert "60 x HTTP Error 500: Internal Server Error" in str(error.value)
    assert not (tmp_path / "toy.json").exists()

    Handler.out_of_order = False
    assert run(source, tmp_path).counts.succeeded == PAIRS - 4


def test_a_hang_ends_and_leaves_nothing_running(tmp_path: Path, address: str) -> None:
    source = replace(write_source(tmp_path, f"{address}/hang"), timeout=50, stall=20.0)
    with pytest.raises(TCLError, match="nothing was written for 20 seconds"):
        run(source, tmp_path)
    assert Handler.hits
    assert not workers_of(tmp_path / "toy")
    assert not list((tmp_path / "toy").glob("*.tar"))


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


def test_a_killed_download_leaves_nothing_running_and_is_continued(tmp_path: Path, address: str) -> None:
    source = write_source(tmp_path, address)
    Handler.delay = 1.0  # a shard of 20 takes 5 seconds with 4 connections
    script = (
        "from pathlib import Path; from tcl.pairs.download import download; from tcl.pairs.source import Source; "
        f"download(Source('toy', Path({str(source.annotations)!r}), samples_per_shard=20, timeout=5), "
        f"folder={str(tmp_path / 'toy')!r}, manifest_path={str(tmp_path / 'toy.json')!r}, processes=1, threads=4)"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_for(lambda: (tmp_path / "toy" / "00001.tar").exists(), seconds=90)
    assert len(workers_of(tmp_path / "toy")) >= 3
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "toy").glob("*_stats.json")}
    assert finished
    assert not (tmp_path / "toy.json").exists()
    wait_for(lambda: not workers_of(tmp_path / "toy"), seconds=5)

    Handler.delay = 0.0
    manifest = run(source, tmp_path)
    assert manifest.counts.succeeded == PAIRS - 4
    assert all(path.stat().st_mtime_ns == then for path, then in finished.items())
    assert Handler.hits["/0.jpg"] == 1
    assert run(source, tmp_path) == manifest


def wait_for(condition: Callable[[], object], *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_relative_addresses_are_served_from_a_folder(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "images").mkdir(parents=True)
    for number in range(12):
        (site / "images" / f"{number}.jpg").write_bytes(jpeg(number))
    (site / "pairs.tsv").write_text("".join(f"number {i}\timages/{i}.jpg\n" for i in range(12)))
    source = Source("world", site / "pairs.tsv", serve=site, samples_per_shard=6)
    manifest = run(source, tmp_path)
    assert manifest.counts.succeeded == 12

    (site / "pairs.tsv").write_text("".join(f"other {i}\timages/{i}.jpg\n" for i in range(6)))
    changed = run(source, tmp_path)
    assert [shard.samples for shard in changed.shards] == [6]
    assert PairReader(tmp_path / "toy", changed).read(0).caption == "other 0"


def test_one_download_at_a_time(tmp_path: Path, address: str) -> None:
    work = tmp_path / "toy" / ".download"
    work.mkdir(parents=True)
    with open(work / "download.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(TCLError, match="Another download is at work"):
            run(write_source(tmp_path, address), tmp_path)
    assert not Handler.hits
