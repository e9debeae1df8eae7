"""Every ablation is a valid configuration that differs from the base in what its file says, and in nothing else."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tcl.ablations import check_ablations, read_ablation, swept, varied
from tcl.commands.config import compose
from tcl.config import check_config, load_config
from tcl.errors import TCLError

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "conf" / "ablation"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
LISTS = sorted(path.stem for path in (ROOT / "conf" / "ablations").glob("*.yaml"))
TRAINED = [name for name in FILES if not read_ablation(name, FOLDER).settings]
SWEPT = [name for name in FILES if name not in TRAINED]


@cache
def base(*overrides: str) -> dict[str, Any]:
    return compose(ROOT / "conf", list(overrides))


def leaves(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from leaves(value, f"{prefix}{key}.")
    else:
        yield prefix.rstrip("."), values


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    before, after = dict(leaves(one)), dict(leaves(other))
    return {key for key in before.keys() | after.keys() if before.get(key, ...) != after.get(key, ...)}


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_differs_in_exactly_the_keys_it_names(name: str) -> None:
    values = base("profile=paper")
    plain = check_config(values, source="base").model_dump()
    named = {key for key, _ in leaves(read_ablation(name, FOLDER).differences)}
    assert changed(plain, varied(values, f"ablations/{name}-0", FOLDER).model_dump()) == named
    assert changed(plain, varied(values, f"ablations/{name}-3", FOLDER).model_dump()) == {*named, "train.seed"}


@pytest.mark.parametrize("name", SWEPT)
@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_a_sweep_differs_in_exactly_the_keys_it_names(name: str, profile: str) -> None:
    values = base(f"profile={profile}")
    plain = check_config(values, source="base").evaluate.model_dump()
    settings = swept(values, name, FOLDER)
    assert len(settings) == len(read_ablation(name, FOLDER).settings) > 1
    for label, each in settings.items():
        named = {part.split("=")[0] for part in label.split(",")}
        assert changed(plain, each.model_dump()) <= named


@pytest.mark.parametrize("name", FILES)
def test_a_file_begins_with_its_question_and_its_command(name: str) -> None:
    first, *others = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    assert "?" in first
    group = re.fullmatch(r"#   dvc exp run -S ablations=(\w+)", others[0])
    assert group is not None
    listed = base("profile=paper", f"ablations={group[1]}")["ablations"]
    assert name in listed["trained"] + listed["swept"]


@pytest.mark.parametrize("name", LISTS)
def test_every_list_is_valid(name: str) -> None:
    values = base(f"profile={'paper' if name == 'paper' else 'demo'}", f"ablations={name}")
    check_ablations(check_config(values, source=name), values, FOLDER)


def test_the_paper_lists_all_ablations() -> None:
    listed = base("profile=paper", "ablations=paper")["ablations"]
    assert {*listed["trained"], *listed["swept"], "tcl"} == set(FILES)


def checkout(folder: Path, files: Mapping[str, str], **ablations: list[str]) -> Path:
    """A folder with parameters that list these ablations, and files for them."""
    values = {**base(), "ablations": {**base()["ablations"], **ablations}}
    (folder / "conf" / "ablation").mkdir(parents=True)
    for name, text in files.items():
        (folder / "conf" / "ablation" / f"{name}.yaml").write_text(text)
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder / "params.yaml"


HEAD = "title: mine\ntable: Losses\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD + "train: {objective: {aera: 0.0}}", r"mine.yaml: 1 .*\n.*train.objective.aera: .* did you mean area\?"),
        (HEAD + "train: {objective: {area: -1}}", r"train.objective.area: .* got -1"),
        (HEAD + "train: {sources: [gcc3m]}", "'gcc3m' is not among the sources world"),
        (HEAD + "train: 3", r"mine.yaml: .*\n.*train"),
        (HEAD + "trian: {lr: 1.0}", "trian is nothing that an ablation may change: evaluate, train, model"),
        (HEAD + "evaluate: [{kp_w: 0.5}]", "mine lists settings under evaluate; it belongs to ablations.swept"),
        ("train: {lr: 1.0}", "must have a title and a table"),
        ("train: [", "not valid YAML"),
        ("", "must have a title and a table"),
    ],
)
def test_a_mistake_in_a_training_is_named_before_anything_runs(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(TCLError, match=complaint):
        load_config(checkout(tmp_path, {"mine": text}, trained=["mine"]))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (HEAD + "evaluate: [{kp: 0.5}]", r"mine.yaml, kp=0.5: 1 .*\n.*evaluate.kp: there is no such key"),
        (HEAD + "evaluate: [{kp_w: 0.5}, {kp_w: 1.5}]", r"kp_w=1.5: .*\n.*evaluate.kp_w"),
        (HEAD + "evaluate: {kp_w: 0.5}", "evaluate must be a list of settings"),
        (HEAD + "train: {lr: 1.0}", "mine lists no settings under evaluate"),
    ],
)
def test_a_mistake_in_a_sweep_is_named_before_anything_runs(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(TCLError, match=complaint):
        load_config(checkout(tmp_path, {"mine": text}, swept=["mine"]))


def test_a_name_without_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TCLError, match=r"'no_aera' has no file .*; did you mean no_area\?"):
        load_config(checkout(tmp_path, {"no_area": HEAD}, trained=["no_aera"]))


def test_a_variant_is_loaded_with_its_seed(tmp_path: Path) -> None:
    path = checkout(tmp_path, {"mine": HEAD + "train: {objective: {area: 0.0}}"}, trained=["mine"])
    assert load_config(path, variant="tcl").train.objective.area == 0.4
    config = load_config(path, variant="ablations/mine-2")
    assert (config.train.objective.area, config.train.seed, config.seed) == (0.0, 2, 0)
