"""`tcl evaluate` on eight miniature benchmarks: the label maps and scores of the official code, however it is run."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tcl.commands.main import main, parser
from tcl.datasets.benchmark import IGNORED, KEYS, load
from tcl.inference.masks import TCLSegmenter
from tcl.model.checkpoint import save_tcl

from .conftest import REFERENCE

DATA = REFERENCE.parent / "benchmarks"
ROOT = REFERENCE.parents[2]
SMALL = ("--short-side", "64", "--window", "64", "--stride", "32")

Evaluate = Callable[..., dict[str, Any]]


@pytest.fixture
def evaluate(tmp_path: Path) -> Evaluate:
    """Function: run the command in this process and return its result."""

    def run(checkpoint: Path, benchmark: str, *options: str) -> dict[str, Any]:
        out = tmp_path / "result.json"
        arguments = parser().parse_args(["evaluate", *needed(checkpoint, benchmark, out), *options])
        arguments.run(arguments)
        result: dict[str, Any] = json.loads(out.read_text())
        return result

    return run


def needed(checkpoint: Path, benchmark: str, out: Path, data: Path = DATA) -> list[str]:
    pairs = {"--checkpoint": checkpoint, "--data": data, "--benchmark": benchmark, "--out": out}
    return [str(part) for pair in pairs.items() for part in pair]


def label_map(path: Path) -> np.ndarray:
    """The values of a PNG of one channel, a palette's indices included."""
    with Image.open(path) as image:
        assert image.mode in ("L", "P")
        return np.array(image)


def truth(key: str, name: str) -> np.ndarray:
    """The ground truth of an image as class indices; 255 is ignored."""
    benchmark = load(key)
    sample = next(each for each in benchmark.samples(DATA) if each.name == name)
    labels = label_map(sample.labels)
    if benchmark.zero_label == "ignored":
        return np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1)
    return labels


def counted_iou(key: str, maps: dict[str, np.ndarray]) -> dict[str, float | None]:
    """IoU in percent of each class by a plain count; None where it occurs neither in a map nor in the truth."""
    pairs = [(maps[name], truth(key, name)) for name in maps]
    scores: dict[str, float | None] = {}
    for index, name in enumerate(load(key).classes):
        hits = sum(int(((ours == index) & (theirs == index)).sum()) for ours, theirs in pairs)
        either = sum(int((((ours == index) | (theirs == index)) & (theirs != IGNORED)).sum()) for ours, theirs in pairs)
        scores[name] = 100 * hits / either if either else None
    return scores


@pytest.mark.parametrize("pamr", ["--pamr", "--no-pamr"])
@pytest.mark.parametrize("key", KEYS)
def test_against_reference_label_maps(
    key: str, pamr: str, evaluate: Evaluate, official_file: Path, reference: Any, tmp_path: Path
) -> None:
    result = evaluate(official_file, key, pamr, "--maps", str(tmp_path / "maps"))
    group = f"{pamr.strip('-').replace('-', '')}/{key}/"
    expected = {name.removeprefix(group): value for name, value in reference("label_maps").items() if group in name}
    names = [name for name in expected if "/" not in name]
    assert {path.stem for path in (tmp_path / "maps").iterdir()} == set(names)
    for name in names:
        found = label_map(tmp_path / "maps" / f"{name}.png")
        assert found.shape == expected[name].shape
        differing = int((found != expected[name]).sum())
        assert differing <= expected[f"{name}/n_close"] + 0.0005 * found.size
    iou = counted_iou(key, {name: expected[name] for name in names})
    assert list(result["IoU"]) == list(load(key).classes)
    assert result["mIoU"] == pytest.approx(np.mean([value for value in iou.values() if value is not None]), abs=0.05)
    assert result["settings"]["short_side"] == 448
    assert result["settings"]["bg_thresh"] == ((0.4 if pamr == "--pamr" else 0.5) if load(key).background else None)


def test_the_result_is_that_of_its_label_maps(evaluate: Evaluate, official_file: Path, tmp_path: Path) -> None:
    result = evaluate(official_file, "voc20", "--no-pamr", *SMALL, "--maps", str(tmp_path / "maps"))
    maps = {path.stem: label_map(path) for path in (tmp_path / "maps").iterdir()}
    assert result["IoU"] == pytest.approx(counted_iou("voc20", maps))
    assert result["images"] == len(maps) == 2


def test_two_ranks_give_the_same_result(evaluate: Evaluate, official_file: Path, tmp_path: Path) -> None:
    alone = evaluate(official_file, "voc", *SMALL, "--maps", str(tmp_path / "alone"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "tcl.commands.main", "evaluate", *needed(official_file, "voc", tmp_path / "two.json")]
    options = [*SMALL, "--maps", str(tmp_path / "two")]
    subprocess.run([*torchrun, *command, *options], cwd=ROOT, check=True, timeout=300)
    assert json.loads((tmp_path / "two.json").read_text()) == alone
    for path in (tmp_path / "alone").iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()


UNUSED = (
    "albumentations dvc gradio hydra img2dataset matplotlib mlflow mmcv.ops mmseg.models omegaconf pandas pycocotools "
    "sympy tcl.pairs tcl.report tcl.training tcl.world timm torch._dynamo torch.distributed.fsdp transformers wandb "
    "webdataset"
)


def test_the_command_imports_nothing_that_it_does_not_use(official_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "tcl.commands.main", "evaluate"]
    arguments = [*needed(official_file, "cityscapes", tmp_path / "out.json"), *SMALL]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Cityscapes: mIoU" in done.stdout
    imported = [line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    # A package by its submodules: an import that was tried and failed is listed too.
    packages = {name[:end] for name in imported for end in range(len(name)) if name[end] == "."}
    assert {"torch", "open_clip", "mmseg.datasets"} <= packages
    assert packages & set(UNUSED.split()) == set()


def test_options_come_before_the_checkpoints_settings(evaluate: Evaluate, model: TCLSegmenter, tmp_path: Path) -> None:
    carried = model.settings.but(short_side=64, window=64, stride=32, pamr=False, bg_thresh_without_pamr=0.6, kp_w=0.1)
    save_tcl(tmp_path / "ours.safetensors", model, inference=carried.to_dict())
    settings = evaluate(tmp_path / "ours.safetensors", "context")["settings"]
    assert (settings["short_side"], settings["pamr"], settings["kp_w"]) == (64, False, 0.1)
    assert settings["bg_thresh"] == 0.6
    options = ("--kp-w", "0", "--bg-thresh", "0.2", "--templates", "simple", "--short-side", "48")
    settings = evaluate(tmp_path / "ours.safetensors", "context", *options)["settings"]
    assert (settings["kp_w"], settings["bg_thresh"], settings["templates"]) == (0, 0.2, "simple")
    assert (settings["short_side"], settings["window"], settings["pamr"]) == (48, 64, False)


def test_bfloat16_is_asked_for_and_said(evaluate: Evaluate, official_file: Path) -> None:
    exact, rough = (evaluate(official_file, "voc", *SMALL, *options) for options in ((), ("--bfloat16",)))
    assert rough.pop("precision") == "bfloat16"
    assert rough.keys() == exact.keys()
    assert rough != exact
    assert rough["aAcc"] == pytest.approx(exact["aAcc"], abs=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--benchmark", "vocc"], "Did you mean 'voc'"),
        (["--data", "nowhere"], "--data nowhere: there is no such folder"),
        (["--checkpoint", "nothing.pth"], "nothing.pth: there is no such checkpoint file"),
        (["--window", "64"], "stride must not exceed window"),
        (["--kp-w", "1.5"], "kp_w: .* less than or equal to 1; got 1.5"),
        (["--templates", "best"], "'best' is no template set. There are: full, maskclip, subset"),
    ],
)
def test_what_cannot_be_evaluated(
    options: list[str], message: str, official_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*needed(official_file, "voc", tmp_path / "out.json"), *options]
    monkeypatch.setattr(sys, "argv", ["tcl", "evaluate", *arguments])
    with pytest.raises(SystemExit, match=message):
        main()
    assert not (tmp_path / "out.json").exists()


def test_images_of_the_same_name_cannot_have_label_maps_of_that_name(
    official_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    city = load("cityscapes")
    for folder, suffix in ((city.images, city.image_suffix), (city.labels, city.label_suffix)):
        for town in ("a", "b"):
            (tmp_path / folder / town).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / folder / town / f"same{suffix}")
    arguments = [*needed(official_file, "cityscapes", tmp_path / "out.json", tmp_path), "--maps", str(tmp_path / "m")]
    monkeypatch.setattr(sys, "argv", ["tcl", "evaluate", *arguments])
    with pytest.raises(SystemExit, match=r"several are alike: \['same'\]"):
        main()
