"""What is known of a revision: its configuration, what DVC ran, and its numbers; git, DVC and MLflow are asked."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tcl.commands.tracking import EXPERIMENT, flat, store
from tcl.commands.workspace import checkout
from tcl.errors import TCLError

WORKSPACE = "workspace"
CODE = ("tcl", "stages", "conf")
"""Where the project's code and configuration lie."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Fast, for dvc.lock is long; reads 1e-06, as DVC writes it, as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Revision:
    """A commit, an experiment of DVC, a run of MLflow, or the workspace.

    commit: None for the workspace. config: values by dotted keys. numbers: mIoU in percent by variant and benchmark.
    code: DVC's hashes of the code that each stage ran, by stage and path. manifests, weights: DVC's hashes by name.
    behind: stages whose results were made with other values than `config`. run: MLflow's id, where it was named by it.
    """

    name: str
    title: str
    commit: str | None
    config: dict[str, Any]
    numbers: dict[str, dict[str, float]]
    code: dict[str, dict[str, str]] = field(default_factory=dict)
    manifests: dict[str, str] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    behind: tuple[str, ...] = ()
    run: str | None = None


def read_revision(name: str) -> Revision:
    """The revision of a name, looked for in this order: workspace, git, experiments of DVC, runs of MLflow.

    Raises TCLError with the nearest names if there is none, or says what it lacks.
    """
    if name == WORKSPACE:
        return _recorded(name, None, "this checkout as it is")
    commit = _commit(name) or _experiments().get(name)
    if commit is not None:
        return _recorded(name, commit, _git("show", "--no-patch", "--format=%h %cs %s", commit).strip())
    run = _run(name)
    if run is not None:
        return _tracked(name, run)
    known = [WORKSPACE, "HEAD", *_git("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/tags").split()]
    known += _experiments()
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(known[:8])}, and every commit."
    raise TCLError(f"{name}: neither a revision of git, nor an experiment of DVC, nor a run of MLflow; {hint}")


def changed_files(a: Revision, b: Revision) -> dict[str, str] | None:
    """Files of code and configuration that differ, with the lines added and removed on the way from `a` to `b`.

    None if a run of MLflow was made on a commit that this repository does not know.
    """
    if any(each.run is not None and not _commit(each.commit or "") for each in (a, b)):
        return None
    if a.commit == b.commit:
        return {}
    ends = [each.commit for each in (a, b) if each.commit is not None]
    reverse = ["-R"] if a.commit is None else []
    lines = _git("diff", "--numstat", "--no-renames", *reverse, *ends, "--", *CODE).splitlines()
    return {path: f"+{added} -{removed}" for added, removed, path in (line.split("\t") for line in lines)}


def cached(md5: str) -> Path | None:
    """The file of a hash in DVC's cache, or None."""
    file = Path(_cache().oid_to_path(md5))
    return file if file.is_file() else None


@lru_cache(maxsize=1)
def _cache() -> Any:
    from dvc.repo import Repo

    with Repo(str(checkout())) as repo:
        return repo.cache.local


def _recorded(name: str, commit: str | None, title: str) -> Revision:
    """A revision by the files that DVC keeps."""
    params, metrics, lock = (_file(commit, path) for path in ("params.yaml", "metrics.json", "dvc.lock"))
    for path, content, advice in (
        ("params.yaml", params, "is it a revision of this project?"),
        ("metrics.json", metrics, "`dvc repro` makes it, and it is compared once it is committed."),
    ):
        if content is None:
            raise TCLError(f"{name}: there is no {path} in it; {advice}")
    config, stages = _mapping(params), _mapping(lock).get("stages", {})
    outs = {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}
    return Revision(
        name,
        title,
        commit,
        dict(flat(config)),
        _mapping(metrics),
        code={stage: _code(content) for stage, content in stages.items()},
        manifests=_below("manifests", outs),
        weights=_below("weights", outs),
        behind=tuple(stage for stage, content in stages.items() if _is_behind(content, config)),
    )


def _tracked(name: str, run: Any) -> Revision:
    """A revision by what MLflow keeps of its report."""
    id_, tags = run.info.run_id, run.data.tags
    commit = tags.get("mlflow.source.git.commit")
    if tags.get("tcl.kind") != "experiment":
        raise TCLError(
            f"{name}: MLflow's run of {tags.get('dvc.stage', run.info.run_name)}, which holds no results; name the run "
            "of its experiment."
        )
    with TemporaryDirectory() as folder:
        kept = _artifacts(id_, ("params.yaml", "manifests"), Path(folder))
    if "params.yaml" not in kept:
        raise TCLError(f"{name}: MLflow's run {id_} did not keep params.yaml; it ended before its report was logged.")
    numbers: dict[str, dict[str, float]] = {}
    for key, value in run.data.metrics.items():
        variant, slash, benchmark = key.rpartition("/")
        if slash and not variant.startswith("system"):
            numbers.setdefault(variant, {})[benchmark] = round(value, 2)
    manifests = {path: hashlib.md5(content, usedforsecurity=False).hexdigest() for path, content in kept.items()}
    return Revision(
        name,
        f"MLflow's run {id_}, {run.info.run_name}" + (f", on commit {commit[:7]}" if commit else ""),
        commit,
        dict(flat(_mapping(kept["params.yaml"].decode("utf-8")))),
        numbers,
        manifests=_below("manifests", manifests),
        run=id_,
    )


def _artifacts(run_id: str, places: Sequence[str], folder: Path) -> dict[str, bytes]:
    """The files that a run kept at these places, by their paths."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store())
    for place in {each.path for each in client.list_artifacts(run_id)} & {*places}:
        client.download_artifacts(run_id, place, dst_path=str(folder))
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _run(name: str) -> Any:
    """MLflow's newest run of this id or name, the runs of experiments first; None if there is none or no store."""
    if not os.environ.get("MLFLOW_TRACKING_URI") and not (checkout() / "mlflow.db").is_file():
        return None
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=store())
    try:
        experiment = client.get_experiment_by_name(EXPERIMENT)
        ids = [experiment.experiment_id] if experiment else []
        found = client.search_runs(ids, order_by=["attributes.start_time DESC"]) if ids else []
    except MlflowException as error:
        raise TCLError(f"{name}: no revision of git, and MLflow does not answer at {store()} ({error}).") from error
    named = [run for run in found if name in (run.info.run_id, run.info.run_name)]
    return next((run for run in named if run.data.tags.get("tcl.kind") == "experiment"), next(iter(named), None))


def _code(stage: Mapping[str, Any]) -> dict[str, str]:
    return {dep["path"]: dep.get("md5", "") for dep in stage.get("deps", []) if dep["path"].split("/")[0] in {*CODE}}


def _below(folder: str, outs: Mapping[str, str]) -> dict[str, str]:
    """Hashes of the files below a folder by their names in it, without the suffix."""
    return {
        str(Path(path).relative_to(folder).with_suffix("")): md5
        for path, md5 in sorted(outs.items())
        if path.startswith(f"{folder}/")
    }


def _is_behind(stage: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether a stage of dvc.lock ran with another value of a parameter that the configuration still has."""
    values = stage.get("params", {}).get("params.yaml", {})
    return any(_at(config, key) not in (None, value) for key, value in values.items())


def _at(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _mapping(text: str | None) -> dict[str, Any]:
    """The mapping in a YAML or JSON text; empty if there is none."""
    if text is None:
        return {}
    if text.startswith("{"):
        return dict(json.loads(text))
    return dict(yaml.load(text, Loader=_Loader) or {})


def _file(commit: str | None, path: str) -> str | None:
    if commit is None:
        file = checkout() / path
        return file.read_text(encoding="utf-8") if file.is_file() else None
    shown = subprocess.run(["git", "show", f"{commit}:./{path}"], cwd=checkout(), capture_output=True, check=False)
    return shown.stdout.decode("utf-8") if shown.returncode == 0 else None


def _commit(name: str) -> str | None:
    """The full hash of a git revision; None if there is no such one."""
    command = ["git", "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"]
    found = subprocess.run(command, cwd=checkout(), capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _experiments() -> dict[str, str]:
    """Commits of DVC's experiments by their names; of several with one name the newest."""
    refs = _git("for-each-ref", "--sort=creatordate", "--format=%(refname) %(objectname)", "refs/exps").splitlines()
    found = (re.fullmatch(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(\S+) ([0-9a-f]{40})", ref) for ref in refs)
    return {match[1]: match[2] for match in found if match}


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=checkout(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise TCLError(f"git {' '.join(arguments[:2])}: {done.stderr.strip()}")
    return done.stdout
