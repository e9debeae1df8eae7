"""A photo of 12 megapixels on the paper's model, with random weights: memory, and what new words cost."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CODE = """
import json, sys, time
from pathlib import Path
import torch
import tcl
from tcl.inference.masks import TCLSegmenter
from tcl.model.build import TCLSizes, blank
from tcl.model.clip import ClipSizes

torch.manual_seed(0)
segmenter = tcl.Segmenter(blank(TCLSizes(ClipSizes()), TCLSegmenter))

def ask(words):
    began = time.process_time()
    result = segmenter(sys.argv[1], words, background=None)
    return result, time.process_time() - began

_, first = ask(["a rusted van"])
result, again = ask(["fog"])
masks = result.masks
result.save(Path(sys.argv[1]).parent / "out", coco=True)
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 2**20
print(json.dumps({"first": first, "again": again, "peak": peak, "shape": list(masks.shape)}))
"""


@pytest.mark.slow
def test_twelve_megapixels(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((4000, 3000), Image.Resampling.BICUBIC).save(photo, quality=90)
    command = [sys.executable, "-c", CODE, str(photo)]
    answer = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    seen = json.loads(answer.splitlines()[-1])
    assert seen["shape"] == [1, 3000, 4000]
    assert seen["peak"] < 4  # GiB
    assert seen["again"] < 0.05 * seen["first"], seen  # processor time
