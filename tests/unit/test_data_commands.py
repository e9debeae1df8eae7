"""`tcl data` in a project folder of its own."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
import yaml

from tcl.commands.config import compose, write_params
from tcl.commands.main import main
from tcl.config import check_config
from tcl.datasets.archives import archives_of
from tcl.pairs.adopt import adopted
from tcl.pairs.manifest import Manifest, read_manifest, write_manifest
from tests.tiny_datasets import MAKE, pack

CONF = Path(__file__).parents[2] / "conf"
Command = Callable[..., str]


@pytest.fixture
def tcl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Function: arguments of `tcl data` in the paper's profile -> what it prints, or the message it ends with."""
    monkeypatch.chdir(tmp_path)
    for variable in ("TCL_DATA", "TCL_MIRROR"):
        monkeypatch.delenv(variable, raising=False)
    write_params(["profile=paper"], conf=CONF)

    def run(*arguments: object, fails: bool = False) -> str:
        monkeypatch.setattr(sys, "argv", ["tcl", "data", *map(str, arguments)])
        capsys.readouterr()
        if not fails:
            main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as ended:
            main()
        assert isinstance(ended.value.code, str)  # the message of exit status 1
        return ended.value.code

    return run


def write_shards(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        with webdataset.TarWriter(str(folder / f"gcc-train-{number:06d}.tar")) as tar:
            for i in range(4):
                tar.write({"__key__": f"{number}{i}", "jpg": b"image", "txt": f"caption {i}"})
    return folder


def adopt(tcl: Command, root: Path) -> Manifest:
    """Adopt a mirror as gcc3m, with the manifest that the stage would make of it."""
    tcl("adopt", "gcc3m", write_shards(root / "mirror"))
    manifest = adopted(root / "data" / "gcc3m")
    assert manifest is not None
    write_manifest(root / "manifests" / "pairs" / "gcc3m.json", manifest)
    return manifest


def test_adopted_shards_are_verified_and_each_bad_one_is_named(tmp_path: Path, tcl: Command) -> None:
    manifest = adopt(tcl, tmp_path)
    assert manifest.restore == "tcl data adopt gcc3m [FOLDER]"
    assert tcl("verify", "gcc3m") == "gcc3m: 3 shards, 12 pairs: sizes and counts agree.\n"
    assert tcl("verify", "gcc3m", "--hashes") == "gcc3m: 3 shards, 12 pairs: sizes, counts and hashes agree.\n"

    (tmp_path / "mirror" / "gcc-train-000000.tar").unlink()
    with open(tmp_path / "mirror" / "gcc-train-000002.tar", "r+b") as file:
        file.truncate(1000)
    said = tcl("verify", fails=True)
    assert "gcc-train-000000.tar: is missing" in said
    assert "gcc-train-000001.tar" not in said
    assert "gcc-train-000002.tar: has 1000 bytes" in said
    assert f"run `{manifest.restore}`" in said
    assert "gcc12m: there is no manifests/pairs/gcc12m.json; `dvc repro download@gcc12m` makes it" in said


def test_hashes_find_what_sizes_do_not(tmp_path: Path, tcl: Command) -> None:
    adopt(tcl, tmp_path)
    tar = tmp_path / "mirror" / "gcc-train-000001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"image", b"other"))
    assert "sizes and counts agree" in tcl("verify", "gcc3m")
    assert "gcc-train-000001.tar: its samples have another hash" in tcl("verify", "gcc3m", "--hashes", fails=True)


def test_what_is_not_a_source_or_not_a_folder(tmp_path: Path, tcl: Command) -> None:
    for action in ("verify", "adopt"):
        assert "'gcc3' is not among the sources of params.yaml: gcc3m, gcc12m" in tcl(action, "gcc3", fails=True)
    assert "nowhere: there is no such folder" in tcl("adopt", "gcc3m", "nowhere", fails=True)
    assert "there are no shards" in tcl("adopt", "gcc3m", fails=True)


def test_status_of_nothing_says_what_to_put_where(tmp_path: Path, tcl: Command) -> None:
    said = tcl("status")
    assert len(said.splitlines()) <= 30
    assert f"put the annotation file at {tmp_path}/data/annotations/cc12m.tsv" in said
    assert "dvc repro prepare@voc; fetches VOCtrainval_11-May-2012.tar" in said
    assert f"put trainval_merged.json into {tmp_path}/data/archives" in said
    assert "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip" in said
    assert said.endswith("missing: gcc3m, gcc12m, voc, context, coco_stuff164k, cityscapes, ade20k\n")


def test_status_of_what_is_there(tmp_path: Path, tcl: Command) -> None:
    manifest = adopt(tcl, tmp_path)
    data = tmp_path / "data"
    MAKE["voc"](data)
    (tmp_path / "manifests" / "voc.json").write_text("{}")
    MAKE["ade20k"](data)
    MAKE["cityscapes"](tmp_path / "elsewhere")
    pack("cityscapes", tmp_path / "elsewhere", data / "archives")
    (data / "annotations").mkdir()
    (data / "annotations" / "cc12m.tsv").touch()
    said = tcl("status")
    found = f"3 shards, 12 of 12 pairs (100%), {manifest.bytes / 1000:.0f} kB"
    assert f"gcc3m           ready       {found}" in said
    assert "gcc12m          missing     no shards yet\n    -> dvc repro download@gcc12m" in said
    assert "voc             ready" in said
    assert "ade20k          unprepared" in said
    assert "-> dvc repro prepare@cityscapes\n" in said
    assert said.endswith("missing: gcc12m, context, coco_stuff164k, cityscapes, ade20k\n")

    (tmp_path / "mirror" / "gcc-train-000000.tar").unlink()
    assert f"gcc3m           damaged     {found}; 1 shards are missing or wrong" in tcl("status")


def test_a_mirror_makes_licensed_archives_fetchable(tcl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TCL_MIRROR", "http://mirror.example.org")
    names = ", ".join(archive.name for archive in archives_of("cityscapes"))
    assert f"dvc repro prepare@cityscapes; fetches {names}" in tcl("status")


def test_a_stage_takes_adopted_shards(tmp_path: Path, tcl: Command) -> None:
    from stages.download import main as download

    tcl("adopt", "gcc3m", write_shards(tmp_path / "mirror"))
    download("gcc3m")
    manifest = read_manifest(tmp_path / "manifests" / "pairs" / "gcc3m.json")
    assert manifest == adopted(tmp_path / "data" / "gcc3m")


def test_another_source_is_one_small_file(tmp_path: Path) -> None:
    conf = shutil.copytree(CONF, tmp_path / "conf")
    settings = yaml.safe_load((conf / "source" / "gcc3m.yaml").read_text())
    settings |= {
        "annotations": "annotations/laion.parquet",
        "format": "parquet",
        "columns": {"url": "URL", "caption": "TEXT"},
    }
    (conf / "source" / "laion.yaml").write_text(yaml.safe_dump(settings))
    config = check_config(compose(conf, ["profile=paper", "+source@sources.laion=laion"]), source="paper")
    assert list(config.sources) == ["gcc3m", "gcc12m", "laion"]
    assert config.sources["laion"].columns.url == "URL"
