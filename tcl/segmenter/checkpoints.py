"""Checkpoints by name: variants that were trained here, and the authors' own, fetched once and checked ever after."""

from __future__ import annotations

import difflib
from importlib.resources import files
from pathlib import Path

import yaml

from tcl.errors import TCLError
from tcl.files import sha256, write_text
from tcl.transfer import fetch

WEIGHTS = Path("weights")
"""Where the pipeline leaves what it has trained; `dvc repro` makes it."""
CACHE = Path("data/checkpoints")
DEFAULT = "tcl"
OFFICIAL = "official"


def find_checkpoint(path_or_name: str | Path | None = None, *, folder: Path = CACHE, weights: Path = WEIGHTS) -> Path:
    """The file of a checkpoint: a path as it is, a variant's name below `weights`, "official", or None for weights/tcl.

    folder: where the official checkpoint is kept; it is fetched if it is not there. Raises TCLError if there is no
    such checkpoint, it could not be fetched, or it differs from what was fetched first.
    """
    if path_or_name is None:
        return _default(weights)
    name = str(path_or_name)
    if name == OFFICIAL:
        return official_checkpoint(folder)
    if Path(name).is_file():
        return Path(name)
    if (weights / f"{name}.safetensors").is_file():
        return weights / f"{name}.safetensors"
    known = [*variants(weights), OFFICIAL]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"names known here: {', '.join(known)}."
    raise TCLError(f"checkpoint: {name!r} is neither a file nor a name; {hint} `tcl models` lists all.")


def variants(weights: Path = WEIGHTS) -> list[str]:
    """Names of the trained variants below `weights`."""
    return sorted(file.stem for file in weights.glob("*.safetensors") if file.stem != "clip")


def official_checkpoint(folder: Path = CACHE) -> Path:
    """The authors' checkpoint in `folder`, fetched if it is not there; its SHA-256 stands beside it.

    The checksum is recorded when the file is first seen. Raises TCLError if it cannot be had or has changed since.
    """
    facts = official_facts()
    file = folder / facts["file"]
    if not file.is_file():
        fetch(facts["url"], file)
    record, seen = checksum_record(file), sha256(file)
    if not record.is_file():
        write_text(record, f"{seen}  {file.name}\n")
    recorded = record.read_text(encoding="utf-8").split()[0]
    if recorded != seen:
        raise TCLError(
            f"{file}: has SHA-256 {seen}, but {recorded} was recorded in {record} when it was first fetched. "
            f"Remove {file} to fetch it again, or {record} if the change is meant."
        )
    return file


def official_facts() -> dict[str, str]:
    """Address and file name of the authors' checkpoint."""
    facts: dict[str, str] = yaml.safe_load((files("tcl.segmenter") / "official.yaml").read_text(encoding="utf-8"))
    return facts


def checksum_record(file: Path) -> Path:
    """The file that holds a checkpoint's checksum, as `sha256sum` writes and reads it."""
    return file.with_name(f"{file.name}.sha256")


def _default(weights: Path) -> Path:
    file = weights / f"{DEFAULT}.safetensors"
    if not file.is_file():
        raise TCLError(
            f"{file}: not there, and no checkpoint is named. `dvc repro` (or `make repro`) trains it from the demo; "
            f"or name a file, or {OFFICIAL!r} for the authors' weights."
        )
    return file
