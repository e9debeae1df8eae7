"""Result files, each held against what it should have been made with before its number enters a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tcl.report.table import Cell

Raw = Mapping[str, Any]
"""The content of a result file."""


@dataclass(frozen=True)
class Expected:
    """What a result must have been made with.

    weights: the file that the model is in. digest: its SHA-256 now, empty if it is not there. settings: all that decide
    the result. images: how many the prepared data set has, None if it is not prepared here. classes: those scored.
    """

    weights: Path
    digest: str
    settings: Mapping[str, Any]
    images: int | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """A result file's content, or None and the reason why it is not to be shown."""

    raw: Raw | None
    note: str = ""
    detail: str = ""

    @property
    def cell(self) -> Cell:
        return Cell(note=self.note) if self.raw is None else Cell(float(self.raw["mIoU"]))


def read_result(path: Path, expected: Expected) -> Result:
    """The result in a file if it is there and was made with what is expected; else why it does not count.

    The notes are `missing`, `damaged`, `stale` (other weights than those there now), `other settings` and `other data`.
    """
    if not path.is_file():
        return Result(None, "missing", f"{path} is not there.")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        settings, images, scored, digest = raw["settings"], raw["images"], tuple(raw["IoU"]), raw.get("weights")
        [float(raw[metric]) for metric in ("mIoU", "mAcc", "aAcc")], dict(raw["pixels"]), dict(raw["confusion"])
    except (ValueError, KeyError, TypeError):
        return Result(None, "damaged", f"{path} cannot be read as a result.")
    if digest is None or digest != expected.digest:
        held = expected.digest[:12] or "none"
        return Result(
            None, "stale", f"{path} was made with weights {str(digest)[:12]}; {expected.weights} has {held} now."
        )
    plain = json.loads(json.dumps(expected.settings))
    if differing := [key for key in {**plain, **settings} if plain.get(key) != settings.get(key)]:
        told = "; ".join(f"{key} was {settings.get(key)!r}, is {plain.get(key)!r}" for key in differing)
        return Result(None, "other settings", f"{path}: {told}.")
    if scored != expected.classes or images != (expected.images or images):
        told = f"{images} images and {len(scored)} classes, not {expected.images} and {len(expected.classes)}"
        return Result(None, "other data", f"{path}: {told}.")
    return Result(raw)


@cache
def method_names() -> dict[str, dict[str, str]]:
    """Names and sources in `methods.yaml`."""
    found: dict[str, dict[str, str]] = yaml.safe_load((files("tcl.report") / "methods.yaml").read_text("utf-8"))
    return found


def method_name(key: str) -> str:
    """How the report names a variant or a method."""
    return method_names().get(key, {}).get("name", key)
