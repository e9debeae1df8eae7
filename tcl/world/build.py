"""The whole demo world on disk: the pair site and the five data sets, in one call."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcl.datasets.parallel import each
from tcl.errors import TCLError
from tcl.files import sha256, write_text
from tcl.world import site as pair_site
from tcl.world.captions import caption
from tcl.world.layout import LAYOUTS, Record
from tcl.world.scene import SMALLEST_SIDE, render

MARKER = ".demo-world"
"""Lies in every folder that this module has written, and allows it to replace that folder."""

# The position is part of every scene's seed: add at the end only.
STREAMS = ("site/pairs", *(f"{dataset}/{split}" for dataset, layout in LAYOUTS.items() for split in layout.splits))


@dataclass(frozen=True)
class WorldSettings:
    """What to build; everything that the world's content depends on.

    `size` is the height of every picture in pixels. `pairs` counts the lines of pairs.tsv; `dead_links` of them lead to
    nothing and `broken_images` to a file that is not an image. `val_scenes` is the number of scenes of each data set's
    validation split, `train_scenes` that of the training split of voc and context.

    Raises TCLError that names all values out of range.
    """

    seed: int = 0
    size: int = 64
    pairs: int = 12000
    dead_links: int = 20
    broken_images: int = 1
    val_scenes: int = 100
    train_scenes: int = 50

    def __post_init__(self) -> None:
        lowest = {"size": SMALLEST_SIDE, "pairs": 1, "val_scenes": 1}
        problems = [
            f"{name} must be at least {lowest.get(name, 0)}, got {value}"
            for name, value in asdict(self).items()
            if value < lowest.get(name, 0)
        ]
        if self.dead_links + self.broken_images >= self.pairs:
            lost = f"{self.dead_links} + {self.broken_images}"
            problems.append(f"dead_links + broken_images must be less than pairs ({self.pairs}), got {lost}")
        if problems:
            raise TCLError("world: " + "; ".join(problems))


class Job(NamedTuple):
    """One scene to write: which part of the world, its split and number, and the folder of the part."""

    part: str
    split: str
    number: int
    folder: Path
    settings: WorldSettings


class Written(NamedTuple):
    """A scene on disk: the part it belongs to, and its caption in the site or its record in a data set."""

    part: str
    caption: str = ""
    record: Record | None = None


def build(*, site: Path, benchmarks: Path, settings: WorldSettings, workers: int = 1) -> dict[str, Any]:
    """Write the pair site into `site` and the five data sets into their folders under `benchmarks`.

    Every scene is seeded by (seed, split, number), so the content depends on `settings` alone. A folder appears when
    the whole world is written, in place of an earlier one; a build that is killed leaves only hidden `.partial` and
    `.replaced` folders, which the next one removes. With more than one worker, processes are spawned: the caller's
    script must be safe to import.

    Returns the manifest: `settings`; `site` with its counts; `benchmarks` with the counts of every data set. Each part
    has a `digest`, a SHA-256 over the names and contents of its files.

    Raises TCLError if a folder to be replaced is not empty and was not written by this function, if one lies inside
    another, or if `workers` is below 1.
    """
    targets = {"site": site, **{dataset: benchmarks / layout.folder for dataset, layout in LAYOUTS.items()}}
    _check(targets)
    with _replacing_folders(targets) as folders:
        written = each(write, _jobs(folders, settings), workers=workers, title="Demo world")
        pair_site.write_list(folders["site"], [item.caption for item in written if item.part == "site"])
        for dataset, layout in LAYOUTS.items():
            records = [item.record for item in written if item.part == dataset and item.record]
            if layout.finish:
                layout.finish(folders[dataset], records)
        return _manifest(folders, settings)


def write(job: Job) -> Written:
    """Render one scene and write it."""
    rng = np.random.default_rng([job.settings.seed, STREAMS.index(f"{job.part}/{job.split}"), job.number])
    size = job.settings.size
    if job.part == "site":
        scene = render(rng, height=size, width=size)
        _write_image(job, scene.image)
        return Written(job.part, caption=caption(rng, scene))
    layout = LAYOUTS[job.part]
    scene = render(rng, height=size, width=round(size * layout.width_to_height), setting=layout.setting)
    return Written(job.part, record=layout.write(job.folder, job.split, job.number, scene))


def _write_image(job: Job, image: NDArray[np.uint8]) -> None:
    dead, broken = _lost(job.settings)
    if job.number in broken:
        pair_site.write_broken_image(job.folder, job.number)
    elif job.number not in dead:
        pair_site.write_image(job.folder, job.number, image)


@cache
def _lost(settings: WorldSettings) -> tuple[frozenset[int], frozenset[int]]:
    """The numbers of the pairs whose link is dead, and of those whose image is broken."""
    order = np.random.default_rng([settings.seed, len(STREAMS)]).permutation(settings.pairs).tolist()
    end = settings.dead_links + settings.broken_images
    return frozenset(order[: settings.dead_links]), frozenset(order[settings.dead_links : end])


def _counts(settings: WorldSettings) -> dict[str, int]:
    """Number of scenes by split."""
    return {"pairs": settings.pairs, "train": settings.train_scenes, "val": settings.val_scenes}


def _jobs(folders: dict[str, Path], settings: WorldSettings) -> list[Job]:
    counts = _counts(settings)
    streams = (stream.split("/") for stream in STREAMS)
    return [Job(part, split, i, folders[part], settings) for part, split in streams for i in range(counts[split])]


def _manifest(folders: dict[str, Path], settings: WorldSettings) -> dict[str, Any]:
    pairs, dead, broken = settings.pairs, settings.dead_links, settings.broken_images
    counts = {"pairs": pairs, "images": pairs - dead - broken, "dead_links": dead, "broken_images": broken}
    datasets = {
        dataset: {split: _counts(settings)[split] for split in layout.splits} | {"digest": _digest(folders[dataset])}
        for dataset, layout in LAYOUTS.items()
    }
    site = counts | {"digest": _digest(folders["site"])}
    return {"settings": asdict(settings), "site": site, "benchmarks": datasets}


def _digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files below a folder, in order of their names."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256("".join(f"{name} {sha256(path)}\n" for name, path in files).encode()).hexdigest()


def _check(targets: dict[str, Path]) -> None:
    resolved = {part: path.resolve() for part, path in targets.items()}
    for part, path in resolved.items():
        if inside := [other for other, parent in resolved.items() if other != part and path.is_relative_to(parent)]:
            raise TCLError(
                f"the world's folders must be apart; {path} lies in {resolved[inside[0]]}. Choose another site"
            )
        if path.exists() and not (path / MARKER).exists() and (not path.is_dir() or any(path.iterdir())):
            rule = f"it was not written by the demo world ({MARKER} is missing)"
            raise TCLError(f"{path} is not empty and will not be replaced: {rule}. Move it away or choose another root")


@contextmanager
def _replacing_folders(targets: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """Give an empty folder beside each target; put all of them in the targets' place if the block succeeds."""
    folders = {part: path.with_name(f".{path.name}.partial") for part, path in targets.items()}
    replaced = {part: path.with_name(f".{path.name}.replaced") for part, path in targets.items()}
    _remove(folders, replaced)
    try:
        for folder in folders.values():
            folder.mkdir(parents=True)
        yield folders
        for part, folder in folders.items():
            write_text(
                folder / MARKER, "Written by the demo world, which replaces this folder when it is built again.\n"
            )
            # Renamed before it is removed: a half-removed folder must not look like a finished one.
            if targets[part].exists():
                targets[part].replace(replaced[part])
            folder.replace(targets[part])
    finally:
        _remove(folders, replaced)


def _remove(*folders: dict[str, Path]) -> None:
    for folder in (path for named in folders for path in named.values()):
        shutil.rmtree(folder, ignore_errors=True)
