"""Ablations: files in conf/ablation that hold what differs from the base configuration, and nothing else.

One that is trained changes `train` or `model`. One that is swept lists inference settings under `evaluate`: the main
model is scored with each. `title` names its row and `table` the table that it belongs to.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from tcl.errors import TCLError

if TYPE_CHECKING:
    from tcl.config import Config, Evaluate

TRAINED = ("train", "model")
"""The sections that a training reads."""


class Ablation(NamedTuple):
    """One file. differences: values by section, for training. settings: differences by their label, for a sweep."""

    file: Path
    title: str
    table: str
    differences: dict[str, Any]
    settings: dict[str, dict[str, Any]]


def read_ablation(name: str, folder: Path) -> Ablation:
    """The ablation of this name; raises TCLError if there is no such file, or it holds something else."""
    file = folder / f"{name}.yaml"
    if not file.is_file():
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}."
        raise TCLError(f"ablations: {name!r} has no file {file}; {hint}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise TCLError(f"{file}: not valid YAML ({error}).") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in ("title", "table")):
        raise TCLError(f"{file}: must have a title and a table, each a text, beside the values that differ.")
    known = ["title", "table", "evaluate", *TRAINED]
    if unknown := [str(key) for key in content if key not in known]:
        raise TCLError(f"{file}: {', '.join(unknown)} is nothing that an ablation may change: {', '.join(known[2:])}.")
    settings = content.get("evaluate") or []
    if not isinstance(settings, list) or not all(isinstance(each, dict) and each for each in settings):
        raise TCLError(f"{file}: evaluate must be a list of settings, each one or more keys with their values.")
    differences = {section: content[section] for section in TRAINED if section in content}
    if settings and differences:
        raise TCLError(f"{file}: must change either {' and '.join(TRAINED)}, or evaluate, not both.")
    return Ablation(file, content["title"], content["table"], differences, {_label(each): each for each in settings})


def varied(values: Mapping[str, Any], variant: str, folder: Path) -> Config:
    """The configuration of one training `ablations/<name>-<seed>`, checked as a whole.

    values: the base. Raises TCLError that names the file and each key in it that is not known or not valid.
    """
    from tcl.config import check_config

    name, _, seed = variant.removeprefix("ablations/").rpartition("-")
    if not name or not seed.isdigit():
        raise TCLError(f"{variant}: must be ablations/<name>-<seed>.")
    ablation = read_ablation(name, folder)
    changed = laid_over(values, ablation.differences)
    changed["train"] = {**changed["train"], "seed": int(seed)} if isinstance(changed["train"], dict) else None
    return check_config(changed, source=str(ablation.file))


def swept(values: Mapping[str, Any], name: str, folder: Path) -> dict[str, Evaluate]:
    """The evaluation settings of a sweep by their labels, checked like the base, which `values` holds."""
    from tcl.config import check_config

    ablation = read_ablation(name, folder)
    changed = {label: laid_over(values, {"evaluate": each}) for label, each in ablation.settings.items()}
    return {label: check_config(each, source=f"{ablation.file}, {label}").evaluate for label, each in changed.items()}


def check_ablations(config: Config, values: Mapping[str, Any], folder: Path) -> None:
    """Raise TCLError for the first ablation of the configuration that is no ablation of its kind, or is not valid."""
    for name in config.ablations.trained:
        if read_ablation(name, folder).settings:
            raise TCLError(f"ablations.trained: {name} lists settings under evaluate; it belongs to ablations.swept.")
        varied(values, f"ablations/{name}-0", folder)
    for name in config.ablations.swept:
        if not swept(values, name, folder):
            raise TCLError(f"ablations.swept: {name} lists no settings under evaluate; is it one to be trained?")


def laid_over(base: Any, differences: Any) -> Any:
    """A copy of `base` with the leaves of `differences` in place of its own."""
    if not isinstance(base, Mapping) or not isinstance(differences, Mapping):
        return copy.deepcopy(differences)
    changed = {key: laid_over(base.get(key), value) for key, value in differences.items()}
    return {**copy.deepcopy(dict(base)), **changed}


def _label(setting: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in setting.items())
