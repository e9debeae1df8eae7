"""Adopting shards that were not downloaded here."""

import hashlib
from pathlib import Path

import pytest
import webdataset

from tcl.errors import TCLError
from tcl.pairs.adopt import adopt, adopted
from tcl.pairs.download import download
from tcl.pairs.fetch import Workers
from tcl.pairs.index import NO_CAPTION
from tcl.pairs.manifest import Manifest, read_manifest, verify
from tcl.pairs.shards import PairReader
from tcl.pairs.source import Source

NAMES = ("gcc-train-000000.tar", "gcc-train-000001.tar")


def write_mirror(folder: Path) -> Path:
    """Shards with GroupViT's names, in two folders, one sample of them without a caption."""
    for number, name in enumerate(NAMES):
        path = folder / str(number) / name
        path.parent.mkdir(parents=True)
        with webdataset.TarWriter(str(path)) as tar:
            for i in range(4):
                tar.write({"__key__": f"{number}{i}", "jpg": b"image %d" % i, "txt": f"caption {i}"})
            if number:
                tar.write({"__key__": "mute", "jpg": b"image"})
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_mirror_is_linked_and_stands_for_a_download(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    before = contents(mirror)
    manifest = adopt("gcc3m", folder=tmp_path / "gcc3m", origin=mirror, restore="adopt gcc3m")
    assert [(shard.name, shard.samples) for shard in manifest.shards] == [(NAMES[0], 4), (NAMES[1], 4)]
    assert manifest.counts == (9, 8, {NO_CAPTION: 1})
    assert manifest.annotations_sha256 is None
    assert contents(mirror) == before
    assert adopt("gcc3m", folder=tmp_path / "gcc3m", origin=mirror, restore="adopt gcc3m") == manifest

    source = Source("gcc3m", tmp_path / "not there.tsv")
    stage = tmp_path / "manifests" / "gcc3m.json"
    found = download(source, folder=tmp_path / "gcc3m", manifest_path=stage, workers=Workers())
    assert found == manifest == read_manifest(stage)
    assert PairReader(tmp_path / "gcc3m", manifest).read(5).caption == "caption 1"
    check_a_lost_shard_is_noticed(tmp_path, manifest)


def check_a_lost_shard_is_noticed(folder: Path, manifest: Manifest) -> None:
    (folder / "mirror" / "1" / NAMES[1]).unlink()
    with pytest.raises(TCLError, match=f"{NAMES[1]}: is missing\n.*run `adopt gcc3m`"):
        verify(manifest, folder / "gcc3m", hashes=False)
    with pytest.raises(TCLError, match=f"{NAMES[1]}: is missing"):
        adopted(folder / "gcc3m")


def test_shards_in_place_are_adopted_as_they_are(tmp_path: Path) -> None:
    for path in write_mirror(tmp_path / "mirror").rglob("*.tar"):
        path.rename(tmp_path / path.name)
    manifest = adopt("gcc3m", folder=tmp_path, origin=None, restore="")
    assert [shard.name for shard in manifest.shards] == list(NAMES)
    assert adopt("gcc3m", folder=tmp_path, origin=tmp_path, restore="") == manifest == adopted(tmp_path)


def test_every_damaged_shard_is_named_and_nothing_adopted(tmp_path: Path) -> None:
    for path in write_mirror(tmp_path / "mirror").rglob("*.tar"):
        path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(TCLError, match=f"(?s){NAMES[0]} is truncated.*{NAMES[1]} is truncated"):
        adopt("gcc3m", folder=tmp_path / "gcc3m", origin=tmp_path / "mirror", restore="")
    assert adopted(tmp_path / "gcc3m") is None


def test_what_is_no_set_of_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match="no shards"):
        adopt("gcc3m", folder=tmp_path / "gcc3m", origin=tmp_path, restore="")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "0", "jpg": b"image", "json": {"caption": "elsewhere"}})
    with pytest.raises(TCLError, match="has both an image and a caption"):
        adopt("gcc3m", folder=tmp_path / "gcc3m", origin=tmp_path, restore="")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.tar").touch()
    with pytest.raises(TCLError, match="two shards have the name"):
        adopt("gcc3m", folder=tmp_path / "gcc3m", origin=tmp_path, restore="")
