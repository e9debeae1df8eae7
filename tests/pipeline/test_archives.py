"""Tiny archives in the official formats: fetched, unpacked, converted, verified, and evaluated."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tcl.commands.config import write_params
from tcl.datasets.archives import archives_of, lay_out
from tcl.datasets.benchmark import DATASETS, KEYS, load
from tcl.datasets.prepare import prepare
from tcl.errors import TCLError
from tests.file_server import FileServer, serving
from tests.tiny_datasets import MAKE, pack

CONF = Path(__file__).parents[2] / "conf"


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[FileServer]:
    """A server that has the archives of the five data sets."""
    for dataset in DATASETS:
        MAKE[dataset](tmp_path / "published")
        pack(dataset, tmp_path / "published", tmp_path / "site")
    with serving(tmp_path / "site") as server:
        yield server


def files(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def test_from_archives_to_scores(tmp_path: Path, publisher: FileServer) -> None:
    root = tmp_path / "data"
    publisher.limit = 2_000  # every connection breaks off
    for dataset in DATASETS:
        archives = [
            replace(
                archive,
                urls=(f"{publisher.address}/{archive.name}",),
                checksum=f"md5:{hashlib.md5((publisher.folder / archive.name).read_bytes()).hexdigest()}",
            )
            for archive in archives_of(dataset)
        ]
        lay_out(archives, root, folder=root / "archives")
        first = prepare(dataset, root, complete=False), files(root)
        lay_out(archives, root, folder=root / "archives")
        assert (prepare(dataset, root, complete=False), files(root)) == first
    assert any(wanted for _, wanted in publisher.requests)
    assert not list(root.rglob("train2017"))
    check_scores(root)


def check_scores(root: Path) -> None:
    import torch

    from tcl.inference.evaluate import evaluate
    from tcl.inference.load import load as load_model
    from tcl.inference.settings import InferenceSettings
    from tcl.model.build import build_tcl
    from tcl.model.checkpoint import save_tcl
    from tcl.model.clip import ClipSizes, build_clip

    sizes = ClipSizes(
        embed_dim=16,
        image_size=32,
        vision_width=16,
        vision_layers=2,
        vision_heads=2,
        text_width=16,
        text_layers=1,
        text_heads=2,
    )
    torch.manual_seed(0)
    settings = InferenceSettings(short_side=32, long_side=128, window=32, stride=16, pamr=False, bg_thresh=0.5)
    weights = root / "tiny.safetensors"
    save_tcl(weights, build_tcl(build_clip(sizes), frozen_blocks=1, decoder_levels=1), inference=settings.to_dict())
    model = load_model(weights)
    for key in KEYS:
        result = evaluate(model, load(key), root, settings=settings).result
        assert result["images"] == 2
        assert 0 <= result["mIoU"] <= 100


def test_the_stage_takes_a_mirror_and_refuses_other_archives(
    tmp_path: Path, publisher: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cityscapes has no published checksum: the first one seen is recorded. VOC has one, and this is not VOC."""
    from stages.prepare import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TCL_MIRROR", publisher.address)
    monkeypatch.setenv("TCL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TCL_PROCESSES", "1")
    write_params(["profile=paper", "datasets.cityscapes.complete=false"], conf=CONF)
    main("cityscapes")
    manifest = json.loads((tmp_path / "manifests" / "cityscapes.json").read_text())
    assert manifest["benchmarks"]["cityscapes"]["images"] == 2
    recorded = sorted(path.name for path in (tmp_path / "data" / "archives").glob("*.sha256"))
    assert recorded == ["gtFine_trainvaltest.zip.sha256", "leftImg8bit_trainvaltest.zip.sha256"]

    publisher.requests.clear()
    before = files(tmp_path / "data")
    main("cityscapes")
    assert files(tmp_path / "data") == before
    assert not publisher.requests

    voc = replace(archives_of("voc")[0], urls=())
    with pytest.raises(TCLError, match="expected is md5:6cd6e144f989b92b3379bac3b3de84fd"):
        lay_out([voc], tmp_path / "data", folder=tmp_path / "data" / "archives", mirror=publisher.address)
    assert not (tmp_path / "data" / "VOCdevkit").exists()
