"""The world's classes, read from vocabulary.yaml."""

from dataclasses import MISSING, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from tcl.errors import TCLError

FILE = Path(__file__).with_name("vocabulary.yaml")
BENCHMARKS = ("voc", "context", "coco_stuff", "cityscapes", "ade20k")
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """A pattern that mixes two colours; `period` is a fraction of the shorter side, `angle` is in degrees."""

    kind: str
    period: float
    angle: float


@dataclass(frozen=True)
class WorldClass:
    """One class; the fields are described at the head of vocabulary.yaml."""

    name: str
    kind: str
    colours: tuple[Colour, Colour]
    texture: Texture
    places: frozenset[str]
    names: dict[str, str]
    synonyms: tuple[str, ...] = ()
    near: frozenset[str] = frozenset()
    zone: str = ""
    edge: str = ""

    @property
    def spoken(self) -> tuple[str, ...]:
        """Every name that captions use, the class's own first."""
        return (self.name, *self.synonyms)


@lru_cache(maxsize=1)
def classes() -> tuple[WorldClass, ...]:
    """The 32 classes; the position is the class index in a label map. Raises TCLError on a malformed vocabulary."""
    return load(FILE)


def load(path: Path) -> tuple[WorldClass, ...]:
    """Read a vocabulary file. Raises TCLError with the file, the class and the rule that is broken."""
    import yaml

    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    loaded = tuple(_parse(path, name, entry) for name, entry in entries.items())
    stuff = {entry.name for entry in loaded if entry.kind == "stuff"}
    for entry in loaded:
        if unknown := sorted(entry.near - stuff):
            raise TCLError(f"{path}: {entry.name}.near must name stuff of this file; got {unknown}")
    return loaded


def index(name: str) -> int:
    """The class index of a class's own name. Raises KeyError."""
    return _indices()[name]


def official(benchmark: str) -> dict[str, int]:
    """Official class name -> world class index, for one of `BENCHMARKS`. Raises TCLError for another key."""
    if benchmark not in BENCHMARKS:
        raise TCLError(f"the world's benchmarks are {', '.join(BENCHMARKS)}; got {benchmark!r}")
    return {entry.names[benchmark]: i for i, entry in enumerate(classes()) if benchmark in entry.names}


@lru_cache(maxsize=1)
def _indices() -> dict[str, int]:
    return {entry.name: i for i, entry in enumerate(classes())}


def _parse(path: Path, name: str, entry: dict[str, Any]) -> WorldClass:
    known = {field.name for field in fields(WorldClass)} - {"name"}
    required = {field.name for field in fields(WorldClass) if field.default is MISSING} - {"name"}
    if unknown := sorted(set(entry) - known):
        raise TCLError(f"{path}: {name} has the unknown key(s) {unknown}; known are {sorted(known)}")
    if missing := sorted(required - set(entry)):
        raise TCLError(f"{path}: {name} lacks the key(s) {missing}")
    if entry["kind"] not in ("thing", "stuff"):
        raise TCLError(f"{path}: {name}.kind must be thing or stuff; got {entry['kind']!r}")
    if foreign := sorted(set(entry["names"]) - set(BENCHMARKS)):
        raise TCLError(f"{path}: {name}.names must use the keys {', '.join(BENCHMARKS)}; got {foreign}")
    first, second = (_colour(triple) for triple in entry["colours"])
    converted = {
        "colours": (first, second),
        "texture": Texture(**entry["texture"]),
        "places": frozenset(entry["places"]),
        "near": frozenset(entry.get("near", ())),
        "synonyms": tuple(entry.get("synonyms", ())),
    }
    return WorldClass(name=name, **{**entry, **converted})


def _colour(triple: list[float]) -> Colour:
    hue, saturation, value = triple
    return float(hue), float(saturation), float(value)
