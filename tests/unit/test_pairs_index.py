"""Shards, their index and their manifest, on tars that the tests write."""

import io
import json
import os
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tcl.errors import TCLError
from tcl.pairs.index import NO_CAPTION, NO_IMAGE, build_index, digest, index_path, open_index
from tcl.pairs.manifest import Counts, Manifest, read_manifest, verify, write_manifest
from tcl.pairs.scan import scan
from tcl.pairs.shards import OPEN_SHARDS, PairReader


def write_tar(path: Path, files: list[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tar_format) as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(*numbers: int, suffix: str = "jpg") -> list[tuple[str, bytes]]:
    """Files of samples in the order given, image and caption and, as img2dataset writes it, JSON."""
    files = []
    for number in numbers:
        key = f"{number:09d}"
        files += [
            (f"{key}.{suffix}", b"image %d" % number * 100),
            (f"{key}.json", b"{}"),
            (f"{key}.txt", b"%d" % number),
        ]
    return files


def manifest_of(folder: Path) -> Manifest:
    shards = scan(folder).shards
    count = sum(shard.samples for shard in shards)
    return Manifest("toy", "0" * 64, Counts(count + 3, count, {"HTTP Error 404: Not Found": 2, "broken": 1}), shards)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tar(tmp_path / "shards" / "00000.tar", samples(2, 0, 1))
    write_tar(tmp_path / "shards" / "00001.tar", samples(11, 10, suffix="png"))
    return tmp_path / "shards"


def test_samples_are_read_in_the_order_of_their_keys(folder: Path) -> None:
    reader = PairReader(folder, manifest_of(folder))
    assert reader.shard_sizes == (3, 2)
    pairs = [reader.read(i) for i in range(len(reader))]
    assert [pair.caption for pair in pairs] == ["0", "1", "2", "10", "11"]
    assert pairs[2].key == "000000002"
    assert pairs[3].image == b"image 10" * 100
    with pytest.raises(IndexError):
        reader.read(5)


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_tar_format(tmp_path: Path, tar_format: int) -> None:
    key = "a" * 90 + "/" + "b" * 95 if tar_format == tarfile.USTAR_FORMAT else "gänse/" + "c" * 300
    tar = write_tar(
        tmp_path / "x.tar", [(f"{key}.JPG", b"i"), (f"{key}.txt", b"t"), ("z.webp", b"i"), ("z.txt", b"")], tar_format
    )
    rows = build_index(tar).rows
    assert rows["key"].tolist() == [key.encode(), b"z"]
    data = tar.read_bytes()
    assert [data[start : start + length] for start, length in rows["caption"]] == [b"t", b""]


def test_incomplete_samples_are_left_out_and_counted(tmp_path: Path) -> None:
    files = [("a.jpg", b"i"), ("b.txt", b"t"), ("c.json", b"{}"), ("d.txt", b"t"), ("README", b""), *samples(1)]
    tar = write_tar(tmp_path / "x.tar", files)
    index = build_index(tar)
    assert index.rows["key"].tolist() == [b"000000001"]
    assert index.incomplete == {NO_CAPTION: 1, NO_IMAGE: 2}
    assert scan(tmp_path).incomplete == index.incomplete
    kept = open_index(tar)
    assert kept is not None
    assert kept.incomplete == index.incomplete


def test_a_sample_with_two_images_is_refused(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", [("a.jpg", b"i"), ("a.png", b"i"), ("a.txt", b"t")])
    with pytest.raises(TCLError, match="two files that could be its image"):
        build_index(tar)


def test_a_shard_cut_anywhere_is_refused_by_name(folder: Path) -> None:
    tar = folder / "00000.tar"
    whole = tar.read_bytes()
    for size in (0, 100, 512, 700, 4000, 4608):
        tar.write_bytes(whole[:size])
        with pytest.raises(TCLError, match=r"00000\.tar is truncated or damaged"):
            scan(folder)
    tar.write_bytes(b"no tar " * 1000)
    with pytest.raises(TCLError, match="not a tar header"):
        scan(folder)


def test_a_damaged_pax_header_is_refused_by_name(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", [("c" * 300 + ".jpg", b"i")], tarfile.PAX_FORMAT)
    data = tar.read_bytes()
    for record in (b"X", b"0 "):
        tar.write_bytes(data[:512] + record + data[512 + len(record) :])
        with pytest.raises(TCLError, match=r"x\.tar is truncated or damaged.*no record of a pax header"):
            build_index(tar)


def test_the_digest_does_not_depend_on_the_order_of_arrival(tmp_path: Path) -> None:
    first, second = write_tar(tmp_path / "a.tar", samples(0, 1, 2)), write_tar(tmp_path / "b.tar", samples(2, 0, 1))
    assert first.read_bytes() != second.read_bytes()
    assert digest_of(first) == digest_of(second)
    other = write_tar(tmp_path / "c.tar", samples(2, 0, 3))
    assert digest_of(first) != digest_of(other)


def digest_of(tar: Path) -> str:
    return digest(tar, build_index(tar).rows)


def test_what_was_read_is_not_read_again(folder: Path) -> None:
    """A scan takes the hash from the index; only a verification finds that samples have changed under it."""
    before = scan(folder)
    tar = folder / "00000.tar"
    manifest, then = manifest_of(folder), tar.stat().st_mtime_ns
    with open(tar, "r+b") as file:
        file.seek(600)
        file.write(b"X")
    os.utime(tar, ns=(then, then))
    assert scan(folder) == before
    with pytest.raises(TCLError, match=r"00000\.tar: its samples have another hash"):
        verify(manifest, folder, hashes=True)
    tar.touch()
    assert scan(folder) != before


def test_every_damaged_shard_is_named_at_once(folder: Path) -> None:
    for name in ("00000.tar", "00001.tar"):
        (folder / name).write_bytes(b"no tar" * 200)
    with pytest.raises(TCLError, match=r"(?s)00000\.tar is truncated or damaged.*00001\.tar is truncated or damaged"):
        scan(folder)


def test_a_stale_or_missing_index_is_made_again(folder: Path) -> None:
    manifest = manifest_of(folder)
    tar = folder / "00000.tar"
    assert open_index(tar) is not None
    write_tar(tar, samples(*range(20)))
    assert open_index(tar) is None
    reader = PairReader(folder, manifest_of(folder))
    assert reader.read(19).caption == "19"
    index_path(tar).unlink()
    assert PairReader(folder, manifest_of(folder)).read(7).caption == "7"
    index_path(tar).write_bytes(index_path(tar).read_bytes()[:40])
    assert open_index(tar) is None
    with pytest.raises(TCLError, match=r"00000\.tar has \d+ bytes"):
        PairReader(folder, manifest).read(0)


def test_a_reader_survives_pickling_and_keeps_few_shards_open(tmp_path: Path) -> None:
    count = OPEN_SHARDS + 5
    for number in range(count):
        write_tar(tmp_path / f"{number:05d}.tar", samples(number))
    reader = PairReader(tmp_path, manifest_of(tmp_path))
    assert [reader.read(i).caption for i in (*range(count), 0)] == [str(i) for i in (*range(count), 0)]
    assert len(reader._open) == OPEN_SHARDS
    copy = pickle.loads(pickle.dumps(reader))
    assert not copy._open
    assert copy.read(3) == reader.read(3)


def test_a_shard_that_shrinks_while_in_use_is_named(folder: Path) -> None:
    reader = PairReader(folder, manifest_of(folder))
    reader.read(0)
    (folder / "00000.tar").write_bytes(b"")
    with pytest.raises(TCLError, match=r"00000\.tar: ended at byte"):
        reader.read(1)


def test_a_manifest_survives_a_round_trip_and_is_deterministic(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder)
    write_manifest(tmp_path / "a.json", manifest)
    write_manifest(tmp_path / "b.json", replace(manifest, shards=manifest.shards[::-1]))
    assert read_manifest(tmp_path / "a.json") == manifest
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert manifest.samples == 5
    assert json.loads((tmp_path / "a.json").read_text())["counts"]["success_ratio"] == 0.625


def test_a_file_that_is_no_manifest_is_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for text, message in ((None, "no such manifest"), ("{", "is not JSON"), ('{"source": "x"}', "is not a manifest")):
        if text is not None:
            path.write_text(text)
        with pytest.raises(TCLError, match=message) as error:
            read_manifest(path)
        assert "manifest.json" in str(error.value)


def test_verify_names_every_bad_shard_at_once(tmp_path: Path) -> None:
    for number in range(5):
        write_tar(tmp_path / f"{number:05d}.tar", samples(*range(number * 10, number * 10 + 10)))
    manifest = replace(manifest_of(tmp_path), restore="fetch toy")
    verify(manifest, tmp_path, hashes=True)
    (tmp_path / "00000.tar").unlink()
    with open(tmp_path / "00001.tar", "r+b") as file:
        file.truncate(5000)
    with open(tmp_path / "00002.tar", "r+b") as file:
        file.seek(600)
        file.write(b"X")
    write_tar(tmp_path / "mirror-7.tar", samples(1))
    shards = [shard._replace(samples=9) if shard.name == "00004.tar" else shard for shard in manifest.shards]
    manifest = replace(manifest, shards=tuple(shards))
    with pytest.raises(TCLError) as quick:
        verify(manifest, tmp_path, hashes=False)
    lines = str(quick.value).splitlines()
    assert lines[0].startswith("4 shards of 'toy'")
    named = [line.split(":")[0].strip() for line in lines[1:-1]]
    assert named == ["00000.tar", "00001.tar", "00004.tar", "mirror-7.tar"]
    assert "00004.tar: has 10 samples, 9 are expected" in lines[3]
    assert "run `fetch toy`" in lines[-1]
    with pytest.raises(TCLError, match=r"00002\.tar: its samples have another hash"):
        verify(manifest, tmp_path, hashes=True)


def test_a_manifest_without_its_shards_says_how_to_get_them(folder: Path, tmp_path: Path) -> None:
    manifest = replace(manifest_of(folder), restore="dvc repro --force --single-item download@toy")
    write_manifest(tmp_path / "toy.json", manifest)
    for tar in folder.glob("*.tar"):
        tar.unlink()
    with pytest.raises(TCLError, match=r"00001\.tar: is missing\n.*run `dvc repro --force --single-item download@toy`"):
        verify(read_manifest(tmp_path / "toy.json"), folder, hashes=False)
