"""python benchmarks/conversion.py: COCO-Object's label maps from raw masks, against a walk over the ids, and the bound.

What is timed: one 640 x 480 mask file to one label map file, on one core, in CPU time. `walk` compares the mask with
each of the 172 ids (171 and unlabelled) in turn, as the official converter does; `ours` looks every pixel up in a
table. `png` is the same with nothing between decoding and encoding: no conversion can be faster. `both` makes
COCO-Stuff's label map as well.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tcl.datasets import coco
from tcl.datasets.benchmark import raw_ids
from tcl.datasets.labels import Conversion, convert, read_labels, write_labels

SIZE = (480, 640)
REGIONS = 40
MASKS, ROUNDS = 20, 5


def draw_mask(seed: int) -> NDArray[np.uint8]:
    """A raw mask [480, 640] of regions with random ids, each made of the pixels nearest to one of some points."""
    random = np.random.default_rng(seed)
    points = random.uniform((0, 0), SIZE, (REGIONS, 2))
    pixels = np.moveaxis(np.indices(SIZE), 0, -1).reshape(-1, 1, 2)
    nearest = ((pixels - points) ** 2).sum(-1).argmin(-1).reshape(SIZE)
    ids = random.choice([*raw_ids("coco_stuff164k"), 255], REGIONS)
    return np.asarray(ids, dtype=np.uint8)[nearest]


def walk(source: Path, target: Path) -> None:
    """The official way: PIL in and out, and a comparison of the whole mask with each id."""
    _, things = coco.tables()
    mask = np.array(Image.open(source))
    converted = mask.copy()
    for raw in (*raw_ids("coco_stuff164k"), 255):
        converted[mask == raw] = things[raw]
    Image.fromarray(converted).save(target)


def ours(source: Path, target: Path) -> None:
    """The table that the stage uses."""
    convert_anew(source, (target,), (coco.tables()[1],))


def both(source: Path, target: Path) -> None:
    """As the stage does it: COCO-Stuff's label map beside COCO-Object's, from one decoding."""
    convert_anew(source, (target.with_suffix(".stuff.png"), target), coco.tables())


def convert_anew(source: Path, targets: tuple[Path, ...], tables: tuple[NDArray[np.uint8], ...]) -> None:
    """Convert although the targets are there."""
    for target in targets:
        target.unlink(missing_ok=True)
    problem = convert(Conversion(source, targets, tables))
    assert problem is None, problem


def png(source: Path, target: Path) -> None:
    """Decoding, encoding and writing alone."""
    write_labels(target, read_labels(source))


def milliseconds(function: Callable[[Path, Path], None], masks: list[Path], target: Path) -> float:
    """CPU time of one mask, the best of some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        for mask in masks:
            function(mask, target)
        rounds.append((time.process_time() - began) / len(masks))
    return 1000 * min(rounds)


def main() -> None:
    """Print the times, the ratio and its bound."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        masks = [folder / f"{number}.png" for number in range(MASKS)]
        for number, path in enumerate(masks):
            Image.fromarray(draw_mask(number)).save(path)
        took = {each.__name__: milliseconds(each, masks, folder / "out.png") for each in (walk, ours, png, both)}
        walk(masks[0], folder / "walk.png")
        ours(masks[0], folder / "ours.png")
        assert (read_labels(folder / "walk.png") == read_labels(folder / "ours.png")).all()
    for label, value in took.items():
        print(f"{label:<5}{value:7.2f} ms a mask")
    print(f"ours is {took['walk'] / took['ours']:.1f} times as fast as the walk")
    print(
        f"PNG and files take {took['png'] / took['ours']:.0%} of ours, so {took['walk'] / took['png']:.1f} is the bound"
    )
    print(f"both label maps at once: {2 * took['walk'] / took['both']:.1f} times as fast as two walks")


if __name__ == "__main__":
    main()
