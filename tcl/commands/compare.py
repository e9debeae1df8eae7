"""`tcl compare A [B]`: what differs between two revisions in configuration, data, code, weights and numbers."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcl.commands.revisions import Revision

SHOWN = 10
"""Lines of a section; the rest is counted."""
AVERAGE = "average"
UP, DOWN, BOLD, PLAIN = "\033[32m", "\033[31m", "\033[1m", "\033[0m"


def add_parser(commands: Any) -> None:
    """Add the command's options."""
    command = commands.add_parser("compare", help="what differs between two revisions or runs")
    command.add_argument("a", metavar="A", help="a git revision, an experiment of DVC, an MLflow run, or workspace")
    command.add_argument("b", metavar="B", nargs="?", default="workspace", help="another one (default: workspace)")
    command.add_argument("--json", action="store_true", help="print all that differs as JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print what differs."""
    from tcl.commands.revisions import read_revision

    found = compare(read_revision(arguments.a), read_revision(arguments.b))
    print(json.dumps(found, indent=2) if arguments.json else "\n".join(page(found)))


def compare(a: Revision, b: Revision) -> dict[str, Any]:
    """All that differs as plain values: lists hold what A has and what B has, None for nothing.

    A section is None where one of the two does not record it.
    """
    from tcl.commands.models import runs_by_weights
    from tcl.commands.revisions import changed_files

    weights = differing(a.weights, b.weights) if a.weights and b.weights else None
    runs = runs_by_weights() if weights else {}
    return {
        "a": _facts(a),
        "b": _facts(b),
        "configuration": differing(a.config, b.config),
        "data": _each(_manifest, differing(a.manifests, b.manifests)) if a.manifests and b.manifests else None,
        "stages": _stages_by_code(a, b) if a.code and b.code else None,
        "files": changed_files(a, b),
        "weights": weights and _each(lambda md5: _weights(md5, runs), weights),
        "numbers": {
            variant: differing(a.numbers.get(variant, {}), b.numbers.get(variant, {}), also_equal=True)
            for variant in {**a.numbers, **b.numbers}
        },
    }


def differing(a: Mapping[str, Any], b: Mapping[str, Any], *, also_equal: bool = False) -> dict[str, list[Any]]:
    """The values of both by key, where they differ."""
    return {key: [a.get(key), b.get(key)] for key in {**a, **b} if also_equal or a.get(key) != b.get(key)}


def _facts(revision: Revision) -> dict[str, Any]:
    return {
        "name": revision.name,
        "title": revision.title,
        "commit": revision.commit,
        "behind": list(revision.behind),
    }


def _each(describe: Any, found: Mapping[str, list[str | None]]) -> dict[str, list[Any]]:
    return {name: [md5 and describe(md5) for md5 in pair] for name, pair in found.items()}


def _manifest(md5: str) -> dict[str, Any]:
    """A manifest by its hash, with its counts if DVC's cache has it."""
    from tcl.commands.revisions import cached

    file = cached(md5)
    return {"md5": md5, "counts": _counts(json.loads(file.read_text(encoding="utf-8"))) if file else None}


def _counts(manifest: Mapping[str, Any]) -> dict[str, int]:
    """What a manifest counts: pairs of a source, or images of a data set by benchmark."""
    if "shards" in manifest:
        return {"pairs": manifest["counts"]["succeeded"]}
    return {key: each["images"] for key, each in manifest.items() if isinstance(each, dict) and "images" in each}


def _weights(md5: str, runs: Mapping[str, str]) -> dict[str, Any]:
    """Weights by their hash, with their SHA-256 and the training's run in MLflow if these are known."""
    from tcl.commands.revisions import cached
    from tcl.files import sha256

    file = cached(md5)
    found = sha256(file) if file else None
    return {"md5": md5, "sha256": found, "run": runs.get(found) if found else None}


def _stages_by_code(a: Revision, b: Revision) -> dict[str, list[str]]:
    """Of the stages that both ran: code that is not the same, and the stages that ran it."""
    stages: dict[str, list[str]] = {}
    for stage in a.code.keys() & b.code.keys():
        for path in differing(a.code[stage], b.code[stage]):
            stages.setdefault(path, []).append(stage)
    return {path: sorted(stages[path]) for path in sorted(stages)}


def page(found: Mapping[str, Any]) -> Iterator[str]:
    """The differences as lines, in colour on a terminal."""
    for side in "ab":
        facts = found[side]
        own = "" if facts["title"].startswith(facts["name"]) else f"{facts['name']}: "
        yield f"{_bold(side.upper())}  {own}{facts['title']}"
        if facts["behind"]:
            behind = _listed(facts["behind"], 4)
            yield f"   not run with this configuration yet, so that its numbers are older: {behind}"
    yield from _section("configuration", found["configuration"], lambda key, a, b: f"{key}: {_value(a)} → {_value(b)}")
    yield from _section("data", found["data"], lambda name, a, b: f"{name}: {_described(a)} → {_described(b)}")
    stages = None if found["stages"] is None else {path: [each, each] for path, each in found["stages"].items()}
    yield from _section("code that stages ran", stages, lambda path, each, _: f"{path}: {_listed(_bases(each), 6)}")
    files = None if found["files"] is None else {path: [lines, lines] for path, lines in found["files"].items()}
    yield from _section("files", files, lambda path, lines, _: f"{path}  {lines}")
    yield from _section("weights", found["weights"], lambda name, a, b: f"{name}: {_described(a)} → {_described(b)}")
    yield from _numbers(found["numbers"])


def _section(title: str, found: Mapping[str, Sequence[Any]] | None, line: Any) -> Iterator[str]:
    if not found:
        yield f"{_bold(title)}: {'the same' if found is not None else 'not recorded in both'}"
        return
    yield _bold(title)
    for key, (a, b) in list(found.items())[:SHOWN]:
        yield f"  {line(key, a, b)}"
    if len(found) > SHOWN:
        yield f"  and {len(found) - SHOWN} more; --json has all"


def _numbers(numbers: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Iterator[str]:
    """A table of as many variants as fit, those that changed most first; then the averages of the others."""
    changed = {name: row for name, row in numbers.items() if any(a != b for a, b in row.values())}
    if not changed:
        yield f"{_bold('numbers')}: the same"
        return
    names = sorted(changed, key=lambda name: -_change(changed[name]))
    keys = list(dict.fromkeys(key for name in names for key in changed[name]))
    width = max(len(key) for key in keys) + 2
    blocks = [max(27, len(name) + 3) for name in names]
    room, shown = shutil.get_terminal_size((100, 24)).columns - width, 0
    while shown < len(names) and (shown == 0 or sum(blocks[: shown + 1]) <= room):
        shown += 1
    yield _bold("numbers".ljust(width)) + "".join(names[i].rjust(blocks[i]) for i in range(shown))
    yield " " * width + "".join(f"{'A':>9}{'B':>9}{'B - A':>9}".rjust(blocks[i]) for i in range(shown))
    for key in keys:
        cells = (_triple(changed[names[i]].get(key, (None, None)), blocks[i]) for i in range(shown))
        yield f"  {key.ljust(width - 2)}{''.join(cells)}".rstrip()
    for name in names[shown : shown + SHOWN]:
        yield f"  also {name}: {' → '.join(map(_number, changed[name].get(AVERAGE, (None, None))))} on average"
    if len(names) > shown + SHOWN:
        yield f"  and {len(names) - shown - SHOWN} more; --json has all"
    if same := [name for name in numbers if name not in changed]:
        yield f"  the same: {_listed(same, 8)}"


def _change(row: Mapping[str, Sequence[float | None]]) -> float:
    return max((abs(b - a) for a, b in row.values() if a is not None and b is not None), default=0.0)


def _triple(pair: Sequence[float | None], width: int) -> str:
    a, b = pair
    text = f"{_number(a):>9}{_number(b):>9}"
    if a is None or b is None:
        return f"{text}{'':>9}".rjust(width)
    difference = f"{b - a:>+9.2f}" if a != b else f"{'=':>9}"
    return " " * (width - 27) + text + (_coloured(difference, UP if b > a else DOWN) if a != b else difference)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _value(value: Any) -> str:
    text = "-" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _described(facts: Mapping[str, Any] | None) -> str:
    """A manifest or weights: the beginning of its hash, and what else is known."""
    if facts is None:
        return "-"
    known = [f"{count:,} {what}" for what, count in (facts.get("counts") or {}).items()]
    if facts.get("sha256"):
        known.append(f"SHA-256 {facts['sha256'][:12]}")
    if facts.get("run"):
        known.append(f"MLflow run {facts['run']}")
    return f"{facts['md5'][:8]} ({', '.join(known)})" if known else facts["md5"][:8]


def _bases(stages: Sequence[str]) -> list[str]:
    """Stages without what they are repeated over."""
    return list(dict.fromkeys(stage.split("@")[0] for stage in stages))


def _listed(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _bold(text: str) -> str:
    return _coloured(text, BOLD)


def _coloured(text: str, colour: str) -> str:
    return f"{colour}{text}{PLAIN}" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text
