"""Every stage of dvc.yaml depends on the code that it runs, so that no edit of that code goes unnoticed."""

import ast
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]

DECIDE_NO_NUMBER = (
    *("tcl/__init__.py", "tcl/ablations.py", "tcl/config.py", "tcl/errors.py", "tcl/files.py", "tcl/mends.py"),
    *("tcl/processes.py", "tcl/progress.py", "tcl/transfer.py"),
    *("tcl/commands", "stages/__init__.py", "stages/launch.py"),
)
"""Reading the configuration, writing files, messages, imports: an edit there must not train again."""


@cache
def imported(path: Path) -> frozenset[Path]:
    """The project's modules that a module imports, anywhere in it."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found.update(file for name in names if (file := module_file(name)))
    return frozenset(found)


def module_file(name: str) -> Path | None:
    if name.partition(".")[0] not in {"tcl", "stages"}:
        return None
    base = ROOT.joinpath(*name.split("."))
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def closure(path: Path) -> set[Path]:
    """All of the project's modules that a module needs, itself included."""
    seen: set[Path] = set()
    pending = {path}
    while pending:
        module = pending.pop()
        seen.add(module)
        pending |= imported(module) - seen
    return seen


def under(path: str, places: list[str] | tuple[str, ...]) -> bool:
    return any(path == place or path.startswith(f"{place}/") for place in places)


def file_of(stage: str) -> Path:
    """The file that a stage runs."""
    command = STAGES[stage].get("do", STAGES[stage])["cmd"].split()
    name = command[3] if command[2] == "stages.launch" else command[2].removeprefix("stages.")
    return ROOT / "stages" / f"{name}.py"


def test_every_file_is_run_by_a_stage() -> None:
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__", "launch"}
    assert files == {file_of(stage).stem for stage in STAGES}
    assert set(STAGES) - files == {"ablation", "ablation_base", "ablation_score", "sweep"}


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_cover_the_imports(stage: str) -> None:
    definition = STAGES[stage].get("do", STAGES[stage])
    deps = [dep for dep in definition["deps"] if "$" not in dep]
    needed = {str(path.relative_to(ROOT)) for path in closure(file_of(stage))}
    missing = {path for path in needed if not under(path, deps) and not under(path, DECIDE_NO_NUMBER)}
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_are_needed(stage: str) -> None:
    definition = STAGES[stage].get("do", STAGES[stage])
    code = [dep for dep in definition["deps"] if dep.endswith(".py") or any((ROOT / dep).glob("*.py"))]
    needed = [str(path.relative_to(ROOT)) for path in closure(file_of(stage))]
    assert not [dep for dep in code if not any(under(path, [dep]) for path in needed)]


def test_training_and_evaluation_do_not_know_each_other() -> None:
    for stage, foreign in (
        ("train", "tcl/inference"),
        ("evaluate", "tcl/training"),
        ("sweep", "tcl/training"),
        ("baselines", "tcl/training"),
    ):
        paths = [str(path.relative_to(ROOT)) for path in closure(file_of(stage))]
        assert not [path for path in paths if under(path, [foreign]) and not path.startswith("tcl/commands")]


def test_the_results_of_every_training_free_method_are_declared() -> None:
    methods = yaml.safe_load((ROOT / "conf/baselines/all.yaml").read_text(encoding="utf-8"))["methods"]
    outs = STAGES["baselines"]["do"]["outs"]
    assert [out for out in outs if out.startswith("results/")] == [f"results/{name}/${{key}}.json" for name in methods]
