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


def new_pages(prelude: str) -> int:
    """Pages that the system gives a process which takes and frees eight blocks of 4 MiB twenty times."""
    code = (
        f"{prelude}\nfrom resource import RUSAGE_SELF, getrusage\nbefore = getrusage(RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20):\n    [bytes([n]) * (4 << 20) for n in range(8)]\n"
        "print(getrusage(RUSAGE_SELF).ru_minflt - before)"
    )
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def test_a_stage_keeps_the_memory_that_it_frees() -> None:
    assert new_pages("import stages") < new_pages("import tcl") / 5


def test_a_stage_does_not_look_for_garbage_among_its_imports() -> None:
    imports = "import gc, stages\nfrom tcl.commands.boundary import boundary\nimporting = gc.isenabled()\n"
    code = f"{imports}with boundary(''):\n    print(importing, gc.isenabled(), gc.get_freeze_count() > 1000)"
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert output.split() == ["False", "True", "True"]
