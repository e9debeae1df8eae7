"""Shards that are there already: a mirror's, an earlier download's, whatever their names, in webdataset form."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from tcl.errors import TCLError
from tcl.pairs.manifest import Counts, Manifest, read_manifest, verify, write_manifest
from tcl.pairs.scan import scan

_MANIFEST = "adopted.json"


def adopt(name: str, *, folder: Path, origin: Path | None, restore: str) -> Manifest:
    """Scan and verify the shards in `folder`, and let them stand for the download of source `name` from now on.

    origin: where the shards lie, at any depth; links to them are put into `folder`, and nothing is written there.
    None: they lie in `folder` itself. restore: the command by which a user does the same again.
    Raises TCLError that names every shard which is truncated, damaged or not in webdataset form, or if there is none.
    """
    if origin is not None and origin.resolve() != folder.resolve():
        _link(folder, origin)
    if not any(folder.glob("*.tar")):
        raise TCLError(f"{name}: there are no shards (*.tar) in {origin or folder}.")
    scanned = scan(folder)
    samples = sum(shard.samples for shard in scanned.shards)
    if not samples:
        raise TCLError(f"{name}: no sample in the shards of {folder} has both an image and a caption (.txt).")
    counts = Counts(samples + scanned.incomplete.total(), samples, scanned.incomplete)
    manifest = Manifest(name, None, counts, scanned.shards, restore=restore)
    write_manifest(folder / _MANIFEST, manifest)
    return manifest


def adopted(folder: Path) -> Manifest | None:
    """The manifest of shards that were adopted, None if none were. Raises TCLError if they have changed since."""
    path = folder / _MANIFEST
    if not path.is_file():
        return None
    manifest = read_manifest(path)
    verify(manifest, folder, hashes=False)
    return manifest


def _link(folder: Path, origin: Path) -> None:
    """Link every shard below `origin` into `folder`, in place of links to elsewhere."""
    found = defaultdict(list)
    for tar in sorted(origin.rglob("*.tar")):
        found[tar.name].append(tar.resolve())
    for name, tars in found.items():
        if len(tars) > 1:
            raise TCLError(f"{origin}: two shards have the name {name}: {tars[0]} and {tars[1]}. Rename one.")
        if (folder / name).exists() and not (folder / name).is_symlink():
            raise TCLError(f"{folder / name}: another shard of that name is there already. Move it away.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (tar,) in found.items():
        (folder / name).unlink(missing_ok=True)
        os.symlink(tar, folder / name)
