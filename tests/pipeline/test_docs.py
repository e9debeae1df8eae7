"""The documentation's own code, run as it stands; its pictures are what that code makes.

To make the pictures anew with the checkpoint in weights/: python -m tests.pipeline.test_docs
"""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "segment.md"
PICTURES = ROOT / "docs" / "segment"


def blocks() -> list[tuple[str, str]]:
    """(language, code) of each block of the page, in order."""
    return re.findall(r"^```(\w+(?: serve)?)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_python(code: list[str]) -> None:
    exec(compile("\n".join(code), str(PAGE), "exec"), {"__name__": "page"})


@pytest.fixture
def checkout(demo_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the demo's weights and the page's scene, as the root of a checkout has them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").symlink_to(demo_checkpoint.parent)
    (tmp_path / "docs" / "segment").mkdir(parents=True)
    shutil.copy(PICTURES / "scene.jpg", tmp_path / "docs" / "segment")
    return tmp_path


def test_python_and_its_pictures(checkout: Path) -> None:
    run_python([code for language, code in blocks() if language == "python"])
    shown = set(re.findall(r"\(segment/(\w+\.png)\)", PAGE.read_text(encoding="utf-8")))
    made = {path.name for path in (checkout / "docs" / "segment").glob("*.png")}
    assert made == shown == {path.name for path in PICTURES.glob("*.png")}
    for name in made:
        ours, theirs = (
            np.asarray(Image.open(folder / name)).astype(int) for folder in (checkout / "docs" / "segment", PICTURES)
        )
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).mean() < 3, name


@pytest.mark.slow
def test_commands_and_the_recipe_for_a_server(checkout: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install -e '.[export]'")
    tcl = checkout / "bin" / "tcl"
    tcl.parent.mkdir()
    tcl.write_text(f'#!/bin/sh\nexec {sys.executable} -m tcl.commands.main "$@"\n')
    tcl.chmod(tcl.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "PATH": f"{tcl.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    for language, code in blocks():
        if language == "bash":
            subprocess.run(["bash", "-euc", code], check=True, env=environment, capture_output=True)
    assert (checkout / "masks" / "scene_coco.json").is_file()
    run_python([code for language, code in blocks() if language == "python serve"])


if __name__ == "__main__":
    os.chdir(ROOT)
    run_python([code for language, code in blocks() if language == "python"])
