"""The paper's model at its real size, with random weights, through the same stages: ViT-B/16 trained and evaluated."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from tcl.model.checkpoint import save_clip
from tcl.model.clip import ClipSizes, build_clip

from .checkout import TCL, clone, run

PAPER_ON_THE_WORLD = [
    *("model=vit_b16", "train=paper", "inference=paper"),
    *("world.pairs=60", "world.val_scenes=2", "world.train_scenes=1", "world.dead_links=2"),
    *("train.global_batch=4", "train.last_step=3", "train.warmup=1", "train.decoder_only_steps=2", "train.log_every=1"),
    "evaluate.overlays=1",
]


@pytest.mark.slow
def test_two_steps_in_each_phase_and_an_evaluation(tmp_path: Path) -> None:
    checkout = clone(tmp_path / "clone")
    run(checkout, *TCL, "config", *PAPER_ON_THE_WORLD)
    run(checkout, "dvc", "repro", "download@world", "prepare@voc", "prepare@coco_stuff164k")
    torch.manual_seed(0)
    save_clip(checkout / "weights" / "clip.safetensors", build_clip(ClipSizes()))
    run(checkout, TCL[0], "-m", "stages.launch", "train", "tcl", timeout=3000)
    with open(checkout / "curves" / "tcl.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [0, 1, 2, 3]
    assert all(math.isfinite(float(row["total"])) for row in rows)
    run(checkout, TCL[0], "-m", "stages.launch", "thresholds", timeout=3000)
    for key in ("voc", "coco_object"):
        run(checkout, TCL[0], "-m", "stages.launch", "evaluate", "tcl", key, timeout=3000)
        run(checkout, TCL[0], "-m", "stages.launch", "baselines", key, timeout=3000)
        for place in (f"tcl/{key}", f"gem/{key}"):
            result = json.loads((checkout / "results" / f"{place}.json").read_text())
            assert result["images"] == 2
            assert result["settings"]["window"] == 448
            assert 0 <= result["mIoU"] <= 100
