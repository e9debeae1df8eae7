"""What starts a process imports only what it uses."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "torchvision", "numpy", "timm", "open_clip", "PIL", "cv2", "scipy", "pandas", "pyarrow", "matplotlib"),
    *("mmseg", "mmcv", "mmengine", "pycocotools", "img2dataset", "webdataset", "safetensors"),
    *("dvc", "mlflow", "hydra", "omegaconf", "pydantic", "gradio", "jinja2", "onnx", "tqdm"),
}


def imported(code: str) -> set[str]:
    """The packages that are there after `code`."""
    told = f"{code}\nimport json, sys\nprint(json.dumps([name for name in sys.modules if '.' not in name]))"
    output = subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout
    return set(json.loads(output.splitlines()[-1]))


def test_the_command_line_imports_nothing_heavy() -> None:
    help_ = "import contextlib\nfrom tcl.commands.main import parser\nfor command in ([], ['segment'], ['evaluate']):\n"
    run = "    with contextlib.suppress(SystemExit):\n        parser().parse_args([*command, '--help'])"
    assert not imported(help_ + run) & HEAVY


@pytest.mark.parametrize(
    ("stage", "needed"),
    [
        ("launch", set()),
        ("download", {"numpy"}),
        ("prepare", {"numpy"}),
        ("world", {"numpy"}),
        ("report", {"numpy", "PIL"}),
        ("checkpoint", {"numpy", "torch", "tqdm"}),
        ("evaluate", {"numpy", "torch", "tqdm"}),
        ("train", {"numpy", "torch", "tqdm"}),
    ],
)
def test_a_stage_imports_what_it_uses(stage: str, needed: set[str]) -> None:
    assert imported(f"import stages.{stage}") & HEAVY <= needed | {"pydantic"}
