"""Captions: a sentence that names most of what a scene shows, as people write under pictures."""

import numpy as np

from tcl.world.scene import Labels, Scene
from tcl.world.vocabulary import classes

THING_NAMED, STUFF_NAMED = 0.9, 0.6
OWN_NAME = 0.5
SMALLEST_VISIBLE = 0.005
"""Share of the picture below which nobody would mention a class."""

SIZE_NAMED = 0.15
SMALL, LARGE = 0.05, 0.12

OPENINGS = (
    *("", "", "a photo of ", "a photo of ", "a picture of ", "an image of ", "itap of ", "a bad photo of "),
    *("art of ", "a view of ", "a snapshot of ", "a good photo of ", "a video game with ", "this shows ", "here is "),
)
BOTH = (
    *("{things} in front of {stuff}", "{things} with {stuff} behind", "{things} near {stuff}", "{things} and {stuff}"),
    *("{stuff} and {things}", "{stuff} with {things}", "{things} by {stuff}", "{things}, {stuff}"),
)
JOINTS = (" and ", " with ", ", ", " next to ", " beside ")
ARTICLES = ("a ", "a ", "a ", "the ", "one ")


def caption(rng: np.random.Generator, scene: Scene) -> str:
    """One caption: each visible thing is named with probability 0.9, each visible stuff with 0.6, at least one of them.

    A class is called by its own name half of the time, by one of its synonyms otherwise. The text is ASCII, lower case,
    without tabs or line breaks.
    """
    shares = visible(scene.labels)
    named = [label for label in shares if rng.random() < (THING_NAMED if _is_thing(label) else STUFF_NAMED)]
    named = named or [list(shares)[rng.integers(len(shares))]]
    order = [named[i] for i in rng.permutation(len(named))]
    things = _join(rng, [_thing(rng, label, shares[label]) for label in order if _is_thing(label)])
    stuff = _join(rng, [_stuff(rng, label) for label in order if not _is_thing(label)])
    body = _choose(rng, BOTH).format(things=things, stuff=stuff) if things and stuff else things + stuff
    return _choose(rng, OPENINGS) + body


def visible(labels: Labels) -> dict[int, float]:
    """Class index -> share of the picture, for the classes that cover at least 0.5 % of it."""
    shares = np.bincount(labels.ravel()) / labels.size
    return {int(label): float(shares[label]) for label in np.flatnonzero(shares >= SMALLEST_VISIBLE)}


def _is_thing(label: int) -> bool:
    return classes()[label].kind == "thing"


def _choose(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]


def _name(rng: np.random.Generator, label: int) -> str:
    entry = classes()[label]
    return entry.name if not entry.synonyms or rng.random() < OWN_NAME else _choose(rng, entry.synonyms)


def _thing(rng: np.random.Generator, label: int, share: float) -> str:
    size = "small " if share < SMALL else "large " if share > LARGE else ""
    noun = (size if rng.random() < SIZE_NAMED else "") + _name(rng, label)
    article = _choose(rng, ARTICLES)
    return ("an " if article == "a " and noun[0] in "aeiou" else article) + noun


def _stuff(rng: np.random.Generator, label: int) -> str:
    return ("the " if rng.random() < 0.7 else "") + _name(rng, label)


def _join(rng: np.random.Generator, phrases: list[str]) -> str:
    sentence = ""
    for position, phrase in enumerate(phrases):
        sentence += (_choose(rng, JOINTS) if position else "") + phrase
    return sentence
