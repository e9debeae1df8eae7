"""The report as one HTML page that needs nothing beside it: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from tcl.config import Config
from tcl.datasets.benchmark import KEYS, MONITORS, load
from tcl.inference.overlays import class_colours
from tcl.inference.thresholds import THRESHOLDS
from tcl.report.charts import Line, line_chart
from tcl.report.collect import Contents
from tcl.report.results import Raw, method_name
from tcl.report.wall import Wall

WORST = 8
"""Classes in the table of confusions."""
TERMS = ("total", "tcli", "tclf", "area_pos", "area_neg", "tv_image", "tv_mask")
"""The objective and its terms, as the curves name them."""


class ClassRow(NamedTuple):
    """One class: its IoU by two methods as dots (style, place), and the span between them, in percent."""

    name: str
    colour: str
    dots: Sequence[tuple[str, float]]
    low: float
    high: float
    value: str


class BenchmarkClasses(NamedTuple):
    """The classes of a benchmark, the best first."""

    key: str
    title: str
    mIoU: float
    rows: Sequence[ClassRow]


class Confusions(NamedTuple):
    """Shares in percent of the pixels of a class (rows) that are taken for others (columns)."""

    rows: Sequence[tuple[str, Mapping[str, float]]]
    columns: Sequence[str]


def page(config: Config, contents: Contents, wall: Wall | None) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("tcl.report", "."), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["data_uri"] = data_uri
    one, other = config.report.differences[-1] if config.report.differences else ("tcl", "maskclip")
    return environment.get_template("page.html").render(
        title=config.report.title,
        profile=config.profile,
        pictures_of=config.report.pictures_of,
        benchmarks=KEYS,
        facts=list(facts(contents)),
        main=contents.main,
        ablations=contents.ablations,
        flaws=contents.flaws,
        wall=wall,
        methods=[(method_name(name), f"m-{name}") for name in contents.results],
        compared=[(method_name(name), f"m-{name}") for name in (other, one)],
        thresholds=list(threshold_charts(contents.results)),
        classes=list(class_rows(contents.results, one=one, other=other)),
        confusions=confusions(contents.results.get(one, {}).get(config.report.pictures_of)),
        curves=list(curve_charts(contents, released=config.train.decoder_only_steps)),
        seconds=[(method_name(name), each) for name, each in contents.seconds.items() if each],
        provenance=contents.provenance,
    )


def facts(contents: Contents) -> Iterator[tuple[str, str]]:
    """The page's few large numbers, each with its meaning."""
    averages = {row.name: (row.kind, value) for row in contents.main.rows if (value := row.cell("average").value)}
    ours = [(name, value) for name, (kind, value) in averages.items() if kind == "ours"]
    baselines = [(value, name) for name, (kind, value) in averages.items() if kind == "baseline"]
    if ours:
        yield f"{ours[0][1]:.1f}", f"{ours[0][0]}: mIoU %, mean of the eight benchmarks"
    if ours and baselines:
        value, name = max(baselines)
        yield f"{ours[0][1] - value:+.1f}", f"points against {name}, the best of {len(baselines)} baselines"
    yield f"{max((each.images for each in contents.provenance), default=0):,}", "images segmented by each method"


def threshold_charts(results: Mapping[str, Mapping[str, Raw]]) -> Iterator[Any]:
    """mIoU over the background threshold, one chart for each benchmark with a background."""
    for key in KEYS:
        raws = {name: each[key] for name, each in results.items() if "thresholds" in each.get(key, {})}
        if raws:
            lines = [_threshold_line(name, raw) for name, raw in raws.items()]
            yield line_chart(key, lines, x_label="background threshold")


def _threshold_line(name: str, raw: Raw) -> Line:
    points = list(zip(THRESHOLDS.tolist(), raw["thresholds"]["mIoU"], strict=True))
    best = raw["thresholds"]["best"]
    marks = [(best["bg_thresh"], best["mIoU"], "best"), (raw["settings"]["bg_thresh"], raw["mIoU"], "used")]
    return Line(points, f"m-{name}", marks)


def class_rows(results: Mapping[str, Mapping[str, Raw]], *, one: str, other: str) -> Iterator[BenchmarkClasses]:
    """IoU of every class by two methods, for each benchmark; sorted by `one`."""
    for key, raw in results.get(one, {}).items():
        benchmark = load(key)
        colours = class_colours(len(benchmark.classes))
        theirs = results.get(other, {}).get(key, {}).get("IoU", {})
        rows = []
        for name, value in sorted(raw["IoU"].items(), key=lambda item: -(item[1] or 0.0)):
            if value is not None:
                dots = [(f"m-{m}", round(v, 1)) for m, v in ((other, theirs.get(name)), (one, value)) if v is not None]
                places = [place for _, place in dots]
                colour = f"rgb{tuple(colours[benchmark.classes.index(name)].tolist())}"
                rows.append(ClassRow(name, colour, dots, min(places), max(places), f"{value:.1f}"))
        yield BenchmarkClasses(key, benchmark.title, raw["mIoU"], rows)


def confusions(raw: Raw | None) -> Confusions | None:
    """What the pixels of the classes with the lowest IoU are taken for."""
    if raw is None:
        return None
    worst = sorted(raw["confusion"], key=lambda name: raw["IoU"][name])[:WORST]
    rows = [(name, {k: 100 * v / raw["pixels"][name] for k, v in raw["confusion"][name].items()}) for name in worst]
    others = [name for name in raw["IoU"] if name not in worst and any(name in shares for _, shares in rows)]
    return Confusions(rows, [*worst, *others])


def curve_charts(contents: Contents, *, released: int) -> Iterator[Any]:
    """The objective, its terms and the monitors' mIoU over the steps; released: when the copied block joins in."""
    for columns, curves in ((TERMS, contents.curves), (MONITORS, contents.monitors)):
        for column in columns:
            lines = [
                Line([(row["step"], row[column]) for row in rows if column in row], f"m-{name}")
                for name, rows in curves.items()
            ]
            if any(line.points for line in lines):
                title = f"mIoU % on {column}" if columns is MONITORS else column
                yield line_chart(title, lines, x_label="step", rule=released)


def data_uri(panel: Image.Image) -> str:
    """A picture as part of the page itself."""
    out = io.BytesIO()
    panel.convert("RGB").save(out, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
