"""Pictures to try the page with: scenes of the demo world, or those of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tcl.errors import TCLError
from tcl.segmenter.source import SUFFIXES
from tcl.world.jpeg import write_jpeg
from tcl.world.scene import render
from tcl.world.vocabulary import classes

SCENES = (3, 11, 20, 21, 34, 42)
"""Seeds of the scenes shown."""
SIZE = (240, 320)
ABSENT = 2
"""Words of an example that the scene does not show."""


class Example(NamedTuple):
    """A picture and the words that its click fills in."""

    file: Path
    words: tuple[str, ...]


def world_examples(folder: Path) -> list[Example]:
    """Draw scenes of the demo world into a folder, with the names of what they show and of some things they do not."""
    return [_scene(folder / f"scene_{number}.jpg", seed) for number, seed in enumerate(SCENES, start=1)]


def folder_examples(folder: Path, words: Sequence[str] = ()) -> list[Example]:
    """The pictures of a folder, with words of a text file of the same stem, one a line, if there is one.

    Raises TCLError if the folder has none.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise TCLError(f"{folder}: no pictures to show as examples; they end in {', '.join(SUFFIXES)}.")
    return [Example(file, _words_beside(file) or tuple(words)) for file in files]


def _scene(file: Path, seed: int) -> Example:
    rng = np.random.default_rng(seed)
    scene = render(rng, height=SIZE[0], width=SIZE[1])
    write_jpeg(file, scene.image)
    present = np.unique(scene.labels).tolist()
    absent = [index for index in rng.permutation(len(classes())).tolist() if index not in present]
    return Example(file, tuple(classes()[index].name for index in [*present, *absent[:ABSENT]]))


def _words_beside(file: Path) -> tuple[str, ...]:
    beside = file.with_suffix(".txt")
    return tuple(beside.read_text(encoding="utf-8").split("\n")) if beside.is_file() else ()
