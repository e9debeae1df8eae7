"""The text of `tcl data status`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from tcl.commands.data import MANIFESTS
from tcl.commands.workspace import archive_mirror, data_root
from tcl.config import Config, Dataset, Source
from tcl.datasets.archives import archives_of
from tcl.datasets.benchmark import of_dataset
from tcl.pairs.manifest import find_problems, read_manifest


class Entry(NamedTuple):
    """A source or data set: its state in a word, what is there, and what to do next, if anything."""

    name: str
    state: str
    found: str
    following: str = ""


def status(config: Config) -> str:
    """One screen: every source and data set of the configuration, and the room that is left."""
    root = data_root()
    place = root if root.exists() else root.parent
    room = f"{size(shutil.disk_usage(place).free)} free" if place.exists() else "not there yet"
    pairs = [source_entry(name, source, root) for name, source in config.sources.items()]
    sets = [dataset_entry(name, dataset, root) for name, dataset in config.datasets.items()]
    lines = [f"data root {root} ({room}), profile {config.profile}", "", "image-text pairs", *map(_lines, pairs)]
    lines += ["", "data sets", *map(_lines, sets)]
    missing = [each.name for each in (*pairs, *sets) if each.state != "ready"]
    return "\n".join([*lines, "", f"missing: {', '.join(missing)}" if missing else "everything is there: `dvc repro`"])


def source_entry(name: str, source: Source, root: Path) -> Entry:
    """What is there of a source: a manifest with its shards, or some of the way to it."""
    folder, path = root / name, MANIFESTS / f"{name}.json"
    download = f"dvc repro download@{name}"
    if path.is_file():
        manifest = read_manifest(path)
        ratio = f"{manifest.samples:,} of {manifest.counts.listed:,} pairs ({manifest.counts.success_ratio:.0%})"
        found = f"{len(manifest.shards):,} shards, {ratio}, {size(manifest.bytes)}"
        problems = find_problems(manifest, folder, hashes=False)
        if not problems:
            return Entry(name, "ready", found)
        following = f"`tcl data verify {name}` names them, `{manifest.restore}` brings them back"
        return Entry(name, "damaged", f"{found}; {len(problems):,} shards are missing or wrong", following)
    shards = len(list(folder.glob("*.tar")))
    so_far = f"{shards:,} shards so far, {size(bytes_below(folder))}" if shards else "no shards yet"
    annotations = root / source.annotations
    if (folder / "adopted.json").is_file():
        return Entry(name, "unfinished", f"{so_far}, adopted", download)
    if annotations.is_file() or source.needs.startswith("manifests/"):
        return Entry(name, "unfinished" if shards else "missing", so_far, download)
    following = f"put the annotation file at {annotations}, then `{download}`; or `tcl data adopt {name} FOLDER`"
    return Entry(name, "missing", f"{so_far}, and no {annotations.name}", following)


def dataset_entry(name: str, dataset: Dataset, root: Path) -> Entry:
    """What is there of a data set: prepared, or which archives it waits for."""
    base, prepare = root / dataset.root, f"dvc repro prepare@{name}"
    folders = {base / path for each in of_dataset(name) for path in (each.images, each.labels)}
    found = size(sum(bytes_below(folder) for folder in folders))
    laid_out = all(folder.is_dir() for folder in folders)
    if laid_out and Path(f"manifests/{name}.json").is_file():
        return Entry(name, "ready", found)
    if laid_out or dataset.archives is None:
        return Entry(name, "unprepared" if laid_out else "missing", found, prepare)
    folder = root / dataset.archives
    absent = [each for each in archives_of(name) if each.needed(base) and not (folder / each.name).is_file()]
    by_hand = [each for each in absent if not each.urls and not archive_mirror()]
    if by_hand:
        names = " and ".join(each.name for each in by_hand)
        following = f"put {names} into {folder} (from {by_hand[0].origin}), then `{prepare}`"
        return Entry(name, "missing", f"{found}, and no {names}", following)
    fetched = f"; fetches {', '.join(each.name for each in absent)}" if absent else ""
    return Entry(name, "missing", found, f"{prepare}{fetched}")


def bytes_below(folder: Path) -> int:
    """Size of all files below a folder; nothing if it is not there."""
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        return sum(bytes_below(Path(each.path)) if each.is_dir() else each.stat().st_size for each in entries)


def size(count: int) -> str:
    """A number of bytes as people say it, in powers of 1,000."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6)):
        if count >= 10**power:
            return f"{count / 10**power:.1f} {unit}"
    return f"{count / 1000:.0f} kB" if count else "nothing"


def _lines(entry: Entry) -> str:
    following = f"\n    -> {entry.following}" if entry.following else ""
    return f"  {entry.name:<16}{entry.state:<12}{entry.found}{following}"
