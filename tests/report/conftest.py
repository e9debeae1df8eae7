"""Checkouts with result files of made-up scores, valid in all that the report looks at."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tcl.commands.config import compose
from tcl.config import Config, check_config
from tcl.datasets.benchmark import Benchmark, load, prompted_classes
from tcl.files import sha256, write_json
from tcl.inference.overlays import write_overlay
from tcl.inference.settings import InferenceSettings
from tcl.inference.thresholds import THRESHOLDS
from tcl.report.collect import Contents, collect

ROOT = Path(__file__).parents[2]
IMAGES = 7


@dataclass(frozen=True)
class Checkout:
    """A folder with params.yaml and the results it asks for."""

    folder: Path
    values: Mapping[str, Any]

    @property
    def config(self) -> Config:
        return check_config(self.values, source="params.yaml")

    def collected(self) -> Contents:
        return collect(self.config, self.values, self.folder)

    def weigh(self, weights: str) -> None:
        """Put weights there; another name, other bytes."""
        file = self.folder / "weights" / f"{weights}.safetensors"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(weights)

    def score(self, place: str, key: str, mIoU: float, *, weights: str = "tcl", **changes: Any) -> Path:
        """Write results/<place>.json of a benchmark; changes: of the settings."""
        benchmark, chosen = load(key), {**self.config.benchmarks, **self.config.monitors}[key]
        settings = InferenceSettings(**self.config.evaluate.model_dump(exclude={"overlays"})).but(**changes)
        names = prompted_classes(benchmark, chosen.classes)
        scored = [benchmark.classes[0], *names] if benchmark.background else names
        result: dict[str, Any] = {
            "benchmark": key,
            **dict.fromkeys(("mIoU", "mAcc", "aAcc"), mIoU),
            "IoU": {name: min(mIoU + 3 * (number % 5) - 6, 100) for number, name in enumerate(scored)},
            "images": IMAGES,
            "settings": settings.in_force(background=benchmark.background),
            "pixels": dict.fromkeys(scored, 1000),
            "confusion": {name: {name: 600, scored[0]: 400} for name in scored[1:]} | {scored[0]: {scored[0]: 1000}},
            "weights": sha256(self.folder / "weights" / f"{weights}.safetensors"),
        }
        if benchmark.background:
            curve = [round(mIoU * (1 - abs(each - 0.4)), 3) for each in THRESHOLDS.tolist()]
            result["thresholds"] = {"mIoU": curve, "best": {"bg_thresh": 0.4, "mIoU": mIoU}}
        path = self.folder / "results" / f"{place}.json"
        write_json(path, result)
        write_json(self.folder / "timings" / f"{place}.json", {"seconds": 7.0, "seconds_per_image": 1.0})
        return path

    def picture(self, folder: str, benchmark: Benchmark) -> None:
        """Three overlay pictures of a method."""
        draws = np.random.default_rng(0)
        for number in range(3):
            image = draws.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            labels = draws.integers(0, 5, (48, 64), dtype=np.uint8)
            path = self.folder / "overlays" / folder / benchmark.key / f"{number}.png"
            write_overlay(path, image, labels, labels[::-1].astype(np.int64), benchmark.classes, benchmark.background)


def build(folder: Path, *overrides: str) -> Checkout:
    """A demo checkout with this configuration, in which TCL scores 50 everywhere and each baseline 10."""
    values = compose(ROOT / "conf", list(overrides))
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(ROOT / "conf" / "ablation", folder / "conf" / "ablation")
    made = Checkout(folder, values)
    for dataset in made.config.datasets:
        keys = [key for key in (*made.config.benchmarks, *made.config.monitors) if load(key).dataset == dataset]
        write_json(folder / f"manifests/{dataset}.json", {"benchmarks": {key: {"images": IMAGES} for key in keys}})
    methods = made.config.baselines.methods
    write_json(
        folder / "results/thresholds.json", {"methods": {name: {"bg_thresh": 0.3, "mIoU": 9.0} for name in methods}}
    )
    made.weigh("tcl")
    made.weigh("clip")
    for key in made.config.benchmarks:
        made.score(f"tcl/{key}", key, 50.0)
        for name in methods:
            made.score(f"{name}/{key}", key, 10.0, weights="clip", bg_thresh=0.3)
    return made


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """The demo's main table, nothing beyond it."""
    return build(tmp_path / "checkout")


def edit(path: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
