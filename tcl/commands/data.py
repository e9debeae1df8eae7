"""`tcl data status|verify|adopt`: what data is there, whether it is sound, and shards from elsewhere."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tcl.errors import TCLError

if TYPE_CHECKING:
    from tcl.config import Config

MANIFESTS = Path("manifests/pairs")
"""Where the stages `download@SOURCE` leave their manifests."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tcl data` and its options."""
    data = commands.add_parser("data", help="what data is there; verify or adopt image-text pairs")
    actions = data.add_subparsers(dest="action", required=True, metavar="ACTION")

    status = actions.add_parser("status", help="what is there, what is missing, how large, what to do next")
    status.set_defaults(run=_status)

    verify = actions.add_parser("verify", help="compare shards with their manifests; exit status 1 if any is wrong")
    verify.add_argument("sources", nargs="*", metavar="SOURCE", help="e.g. gcc3m; all of params.yaml if none is given")
    verify.add_argument("--hashes", action="store_true", help="read every byte: also samples that changed are found")
    verify.set_defaults(run=lambda arguments: verify_sources(arguments.sources, hashes=arguments.hashes))

    adopt = actions.add_parser("adopt", help="take shards of webdataset form, e.g. a mirror's, in place of a download")
    adopt.add_argument("source", metavar="SOURCE", help="a source of params.yaml, e.g. gcc3m")
    adopt.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="where they lie, if not in the data root's folder SOURCE"
    )
    adopt.set_defaults(run=lambda arguments: adopt_shards(arguments.source, arguments.folder))


def _status(arguments: argparse.Namespace) -> None:
    from tcl.commands.data_status import status
    from tcl.config import load_config

    print(status(load_config()))


def verify_sources(names: Sequence[str], *, hashes: bool) -> None:
    """Verify the shards of these sources, or of all; raises TCLError that names every bad shard of every source."""
    from tcl.commands.workspace import data_root
    from tcl.config import load_config
    from tcl.pairs.manifest import read_manifest, verify

    config = load_config()
    problems = []
    for name in names or config.sources:
        try:
            _check_name(name, config)
            if not (path := MANIFESTS / f"{name}.json").is_file():
                raise TCLError(f"{name}: there is no {path}; `dvc repro download@{name}` makes it.")
            manifest = read_manifest(path)
            verify(manifest, data_root() / name, hashes=hashes)
        except TCLError as error:
            problems.append(str(error))
            continue
        compared = "sizes, counts and hashes" if hashes else "sizes and counts"
        print(f"{name}: {len(manifest.shards):,} shards, {manifest.samples:,} pairs: {compared} agree.")
    if problems:
        raise TCLError("\n".join(problems))


def adopt_shards(name: str, folder: Path | None) -> None:
    """Let the shards in a folder stand for the download of a source."""
    from tcl.commands.workspace import data_root
    from tcl.config import load_config
    from tcl.pairs.adopt import adopt

    _check_name(name, load_config())
    if folder is not None and not folder.is_dir():
        raise TCLError(f"{folder}: there is no such folder.")
    restore = f"tcl data adopt {name} [FOLDER]"  # the same manifest wherever the shards came from
    manifest = adopt(name, folder=data_root() / name, origin=folder, restore=restore)
    print(f"{name}: {len(manifest.shards):,} shards, {manifest.samples:,} pairs adopted. They stand for a download")
    print(f"until {data_root() / name / 'adopted.json'} is deleted. Next: dvc repro download@{name}")


def _check_name(name: str, config: Config) -> None:
    if name not in config.sources:
        raise TCLError(f"{name!r} is not among the sources of params.yaml: {', '.join(config.sources)}.")
