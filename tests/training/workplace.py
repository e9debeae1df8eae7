"""A folder in which the train stage runs in seconds: real shards and configuration, tiny images, a tiny CLIP."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import psutil
import torch
import yaml
from webdataset import TarWriter

from tcl.commands.config import compose
from tcl.model.checkpoint import save_clip
from tcl.model.clip import ClipSizes, build_clip
from tcl.pairs.manifest import Counts, Manifest, write_manifest
from tcl.pairs.scan import scan

ROOT = Path(__file__).parents[2]
SIZES = ClipSizes(
    embed_dim=16,
    image_size=32,
    patch_size=8,
    vision_width=16,
    vision_layers=2,
    vision_heads=2,
    context_length=8,
    text_width=16,
    text_layers=1,
    text_heads=2,
)
STAGE = [sys.executable, "-m", "stages.launch", "train", "tcl"]
TRAIN = {
    "global_batch": 8,
    "last_step": 39,
    "warmup": 5,
    "decoder_only_steps": 20,
    "checkpoint_every": 5,
    "keep_every": 15,
    "log_every": 1,
}


def make(folder: Path, **train: Any) -> Path:
    """Lay out params.yaml, the manifest, four shards and the CLIP in `folder`; train: settings to change."""
    params = compose(ROOT / "conf", [])
    params["model"] |= {"clip": asdict(SIZES), "frozen_blocks": 1, "decoder_levels": 1}
    params["train"] |= TRAIN | train
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shards = folder / "data" / "world"
    shards.mkdir(parents=True)
    for shard in range(4):
        with TarWriter(str(shards / f"{shard:05d}.tar")) as tar:
            for number in range(25):
                tar.write(_pair(shard * 25 + number))
    write_manifest(
        folder / "manifests/pairs/world.json", Manifest("world", "0" * 64, Counts(100, 100, {}), scan(shards).shards)
    )
    torch.manual_seed(0)
    save_clip(folder / "weights" / "clip.safetensors", build_clip(SIZES))
    return folder


def _pair(number: int) -> dict[str, Any]:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return {"__key__": f"{number:09d}", "png": buffer.getvalue(), "txt": f"number {number}"}


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of the stage in `folder`: our code, two processes, no data loading workers, no GPU."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TCL_", "MLFLOW_", "DVC_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ours = {"PATH": path, "PYTHONPATH": str(ROOT), "TCL_WORKERS": "0", "CUDA_VISIBLE_DEVICES": "", "TCL_PROCESSES": "2"}
    return {**kept, **ours, **variables}


def start(folder: Path, **variables: str) -> subprocess.Popen[str]:
    """The train stage under way, in a session of its own."""
    return subprocess.Popen(
        STAGE,
        cwd=folder,
        env=environment(folder, **variables),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(folder: Path, **variables: str) -> str:
    """Run the stage to its end; returns what it says."""
    process = start(folder, **variables)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 0, told[-3000:]
    return told


def saved_steps(folder: Path) -> int:
    """The number of steps in the newest saved state."""
    states = [path.stem.removeprefix("state-") for path in folder.glob("runs/train-tcl-*/state-*.pt")]
    return max(map(int, states), default=0)


def ranks_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train, below torchrun."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [each for each in found if "stages.train" in each.cmdline() and each.ppid() == process.pid]
