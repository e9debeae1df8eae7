"""From the configuration and the result files to what the report shows."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tcl.ablations import Ablation, read_ablation, swept
from tcl.config import Config, Evaluate
from tcl.datasets.benchmark import KEYS, MONITORS, load, prompted_classes
from tcl.files import sha256
from tcl.inference.settings import InferenceSettings
from tcl.report.results import Expected, Raw, Result, method_name, method_names, read_result
from tcl.report.table import Kind, Row, Table, over_seeds, paper_rows

TCL = Path("weights/tcl.safetensors")
CLIP = Path("weights/clip.safetensors")
COLUMNS = (*MONITORS, *KEYS, "average")


class Provenance(NamedTuple):
    """What a row was made of. sha256, md5: of the weights; MLflow's runs carry the one, dvc.lock the other."""

    name: str
    weights: Path
    sha256: str
    md5: str
    images: int
    thresholds: str


@dataclass(frozen=True)
class Contents:
    """All that the report shows. results: by variant and benchmark key, those that count. flaws: why others do not."""

    main: Table
    ablations: Sequence[Table]
    results: Mapping[str, Mapping[str, Raw]]
    provenance: Sequence[Provenance]
    flaws: Sequence[str]
    metrics: Mapping[str, Any]
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    monitors: Mapping[str, Sequence[Mapping[str, float]]]
    seconds: Mapping[str, Mapping[str, float]]


class Reader:
    """Reads results below `root` and keeps in mind which of them do not count."""

    def __init__(self, config: Config, root: Path) -> None:
        self.config, self.root = config, root
        self.flaws: list[str] = []
        self._digests: dict[Path, str] = {}
        file = root / "results/thresholds.json"
        self.thresholds = json.loads(file.read_text(encoding="utf-8"))["methods"] if file.is_file() else {}

    def variant(self, name: str) -> dict[str, Result]:
        """The main results of a trained variant, by benchmark key."""
        places = {key: f"{name}/{key}" for key in self.config.benchmarks}
        return self._read(places, self.root / f"weights/{name}.safetensors", self.config.evaluate)

    def method(self, name: str) -> dict[str, Result]:
        """The results of a training-free method."""
        places = {key: f"{name}/{key}" for key in self.config.benchmarks}
        chosen = self.thresholds.get(name, {}).get("bg_thresh")
        return self._read(places, self.root / CLIP, self.config.evaluate, bg_thresh=chosen)

    def scored(self, place: str, weights: Path, settings: Evaluate, *, keys: Iterable[str]) -> dict[str, Result]:
        """Results of the stages that score all of a data set; place: a folder with `{}` for the data set."""
        found = {key: load(key).dataset for key in keys}
        places = {key: f"{place.format(dataset)}/{key}" for key, dataset in found.items() if self._wanted(key)}
        return self._read(places, self.root / weights, settings)

    def digest(self, weights: Path) -> str:
        """SHA-256 of a file, empty if it is not there."""
        if weights not in self._digests:
            self._digests[weights] = sha256(weights) if weights.is_file() else ""
        return self._digests[weights]

    def _wanted(self, key: str) -> bool:
        dataset = load(key).dataset
        return dataset in self.config.ablations.datasets and (key in KEYS or self._images(key) is not None)

    def _read(
        self, places: Mapping[str, str], weights: Path, evaluate: Evaluate, *, bg_thresh: float | None = None
    ) -> dict[str, Result]:
        results = {}
        for key, place in places.items():
            expected = self._expected(key, weights, evaluate, bg_thresh)
            results[key] = read_result(self.root / f"results/{place}.json", expected)
            if results[key].detail:
                self.flaws.append(results[key].detail)
        return results

    def _expected(self, key: str, weights: Path, evaluate: Evaluate, bg_thresh: float | None) -> Expected:
        benchmark, chosen = load(key), {**self.config.benchmarks, **self.config.monitors}[key]
        settings = InferenceSettings(**evaluate.model_dump(exclude={"overlays"}))
        if bg_thresh is not None:
            settings = settings.but(bg_thresh=bg_thresh)
        elif settings.bg_thresh is None:
            settings = settings.but(bg_thresh=chosen.bg_thresh)
        names = prompted_classes(benchmark, chosen.classes)
        return Expected(
            weights,
            self.digest(weights),
            settings.in_force(background=benchmark.background),
            self._images(key),
            (benchmark.classes[0], *names) if benchmark.background else tuple(names),
        )

    def _images(self, key: str) -> int | None:
        """How many images the prepared data set has of this benchmark."""
        file = self.root / f"manifests/{load(key).dataset}.json"
        prepared = json.loads(file.read_text(encoding="utf-8"))["benchmarks"] if file.is_file() else {}
        return prepared.get(key, {}).get("images")


def collect(config: Config, values: Mapping[str, Any], root: Path) -> Contents:
    """All that the report shows, from the files below `root`; values: the configuration as params.yaml holds it."""
    reader = Reader(config, root)
    variants = list(dict.fromkeys(each.variant for each in config.evaluations.values()))
    read = {name: reader.method(name) for name in config.baselines.methods}
    read |= {name: reader.variant(name) for name in variants}
    kinds: dict[str, Kind] = {name: "ours" if name in variants else "baseline" for name in read}
    rows = {name: main_row(name, kinds[name], results) for name, results in read.items()}
    tables, ablation_rows = ablation_tables(config, values, reader, rows["tcl"])
    counting = {name: {k: r.raw for k, r in each.items() if r.raw is not None} for name, each in read.items()}
    return Contents(
        main=Table(config.report.title, main_rows(config, rows)),
        ablations=tables,
        results=counting,
        provenance=[
            provenance(
                name, root / (CLIP if kinds[name] == "baseline" else f"weights/{name}.safetensors"), raws, reader
            )
            for name, raws in counting.items()
        ],
        flaws=reader.flaws,
        metrics={name: row.rounded() for name, row in {**rows, **ablation_rows}.items()},
        curves=read_curves(root / "curves"),
        monitors=read_curves(root / "curves/monitors"),
        seconds={name: read_seconds(name, config, root) for name in read},
    )


def main_row(name: str, kind: Kind, results: Mapping[str, Result]) -> Row:
    """A row of the main table."""
    refined = {"+ PAMR" if r.raw["settings"]["pamr"] else "no PAMR" for r in results.values() if r.raw is not None}
    source = method_names().get(name, {}).get("source", "trained here")
    title = " ".join([method_name(name), *sorted(refined)])
    return Row(title, kind, source, {key: result.cell for key, result in results.items()})


def main_rows(config: Config, rows: Mapping[str, Row]) -> list[Row]:
    """The paper's rows, ours, and the differences that the profile asks for."""
    own = paper_rows(["tcl_pamr" if config.evaluate.pamr else "tcl"])[0]
    own = Row("paper", "paper", own.source, own.cells)
    differences = [rows[a].minus(own if b == "paper" else rows[b]) for a, b in config.report.differences]
    return [*paper_rows(config.report.paper_rows), *rows.values(), *differences]


def ablation_tables(
    config: Config, values: Mapping[str, Any], reader: Reader, base: Row
) -> tuple[list[Table], dict[str, Row]]:
    """The tables of ablations, each headed by the model that nothing is changed of; and all trained rows by name."""
    chosen, folder = config.ablations, reader.root / "conf/ablation"
    rows: dict[str, Row] = {}
    grouped: dict[str, list[Row]] = {}
    if chosen.trained and "tcl" not in chosen.trained:
        keys = MONITORS if "tcl" in chosen.monitored else ()
        monitors = reader.scored("monitors/tcl/{}", TCL, config.evaluate, keys=keys)
        base = Row("TCL", "ours", base.source, {**base.cells, **{key: each.cell for key, each in monitors.items()}})
    for name in chosen.trained:
        ablation = read_ablation(name, folder)
        rows[f"ablations/{name}"] = trained_row(name, ablation, config, reader)
        if name == "tcl":
            base = rows[f"ablations/{name}"]
        else:
            grouped.setdefault(ablation.table, []).append(rows[f"ablations/{name}"])
    tables = [Table(title, [base, *each], COLUMNS) for title, each in grouped.items()]
    for name in chosen.swept:
        settings = swept(values, name, folder)
        sweep_rows = [swept_row(name, label, each, reader) for label, each in settings.items()]
        tables.append(Table(f"Inference: {read_ablation(name, folder).title}", sweep_rows, COLUMNS))
    return tables, rows


def trained_row(name: str, ablation: Ablation, config: Config, reader: Reader) -> Row:
    """A trained ablation's numbers, over its seeds."""
    runs = [f"ablations/{name}-{seed}" for seed in config.ablations.seeds]
    found = [
        reader.scored(f"{run}/{{}}", Path(f"weights/{run}.safetensors"), config.evaluate, keys=COLUMNS[:-1])
        for run in runs
    ]
    cells = {key: over_seeds([results[key].cell for results in found]) for key in found[0]}
    averages = [Row("", "ours", "", {key: r.cell for key, r in each.items()}).cell("average") for each in found]
    source = f"{len(runs)} seeds" if len(runs) > 1 else f"seed {config.ablations.seeds[0]}"
    return Row(ablation.title, "ours", source, {**cells, "average": over_seeds(averages)})


def swept_row(sweep: str, label: str, settings: Evaluate, reader: Reader) -> Row:
    """The main model's numbers under one setting of a sweep."""
    results = reader.scored(f"sweeps/{sweep}/{{}}/{label}", TCL, settings, keys=COLUMNS[:-1])
    return Row(label.replace(",", ", "), "ours", "the same weights", {key: r.cell for key, r in results.items()})


def provenance(name: str, weights: Path, results: Mapping[str, Raw], reader: Reader) -> Provenance:
    """Where a row's numbers come from."""
    used = {raw["settings"]["bg_thresh"] for raw in results.values()} - {None}
    return Provenance(
        method_name(name),
        weights,
        reader.digest(weights),
        hashlib.md5(weights.read_bytes(), usedforsecurity=False).hexdigest() if weights.is_file() else "",
        sum(raw["images"] for raw in results.values()),
        ", ".join(f"{each:g}" for each in sorted(used)),
    )


def read_curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The rows of each training's curve in a folder, by variant."""
    curves = {}
    for path in sorted(folder.glob("*.csv")):
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        curves[path.stem] = [{key: float(value) for key, value in row.items() if value} for row in rows]
    return curves


def read_seconds(name: str, config: Config, root: Path) -> dict[str, float]:
    """Seconds an image by benchmark key, as far as they were measured."""
    files = {key: root / f"timings/{name}/{key}.json" for key in config.benchmarks}
    return {
        key: float(json.loads(file.read_text(encoding="utf-8"))["seconds_per_image"])
        for key, file in files.items()
        if file.is_file()
    }
