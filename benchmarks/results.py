"""The table of a run: read, compared, printed, drawn and kept."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.measure import DEVICE, Measured, Speed
from tcl.errors import TCLError
from tcl.files import replacing, write_json, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR = "#3b6ea5"

Rows = Mapping[tuple[str, str], Mapping[str, Any]]
"""Rows of a saved table by name and size."""

COLUMNS = ("what", "size", "time", "plain", "times as fast", "memory", "plain", "difference", "of the bound", "before")
HEAD = f"| {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * (len(COLUMNS) - 2)}"


def machine(speed: Speed) -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matrix_gflops": {str(dtype).removeprefix("torch."): rate / 1e9 for dtype, rate in speed.matrix.items()},
        "copy_gbytes": speed.copy / 1e9,
    }


def cpu_name() -> str:
    """The processor's name, as Linux or Python gives it, and the widest vector instructions that torch uses."""
    return f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def read(path: Path) -> dict[str, Any] | None:
    """A saved table, or None; raises TCLError if the file is damaged."""
    if not path.is_file():
        return None
    try:
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        saved["rows"] = {(each["name"], each["size"]): each for each in saved["cases"]}
    except (ValueError, KeyError, TypeError) as error:
        raise TCLError(f"{path} is no table of a benchmark ({error!r}). Restore it with git, or delete it.") from error
    return saved


def header(machine: Mapping[str, Any], saved: Mapping[str, Any] | None) -> str:
    """What the table was measured on, and what it is compared with."""
    products = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in machine["matrix_gflops"].items())
    text = (
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}. Matrix products or convolutions "
        f"reach {products}; copying reads and writes {machine['copy_gbytes']:.1f} GB/s."
    )
    if saved is None:
        return text
    then = saved["machine"]
    same = all(then[key] == machine[key] for key in ("device", "threads", "torch"))
    where = "" if same else f", measured on {then['device']}, {then['threads']} threads, torch {then['torch']}"
    return f"{text} `before` is the saved time as a multiple of this one{where}."


def row(each: Measured, saved: Mapping[str, Any] | None = None) -> str:
    """A line of the table."""
    before = saved["rows"].get((each.name, each.size)) if saved else None
    cells = (
        each.name,
        each.size,
        duration(each.seconds),
        "" if each.plain_seconds is None else duration(each.plain_seconds),
        gain(each),
        size(each.memory),
        size(each.plain_memory),
        "" if each.difference is None else f"{each.difference:.0e}" if each.difference else "0",
        "" if each.of_bound is None else f"{each.of_bound:.0%} {each.bound}",
        "" if before is None else f"{before['seconds'] / each.seconds:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def gain(each: Measured) -> str:
    """How many times as fast as the opponent; what is added to the time of one that cannot be beaten."""
    if each.added is not None:
        return f"{'-' if each.added < 0 else '+'}{duration(abs(each.added))}"
    return "" if each.ratio is None else f"{each.ratio:.2f}" if each.ratio < 10 else f"{each.ratio:.0f}"


def duration(seconds: float) -> str:
    """Seconds in three digits, or milliseconds."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def size(count: int | None) -> str:
    """Bytes as MB."""
    return "" if count is None else f"{count / 1e6:.0f} MB"


def save(path: Path, rows: Sequence[Measured], machine: Mapping[str, Any]) -> None:
    """Keep a table as JSON, Markdown and a picture, whose names differ in their suffix."""
    write_json(path, {"machine": machine, "cases": [asdict(each) for each in rows]})
    lines = [header(machine, None), "", HEAD, *(row(each) for each in rows), *gpu_times(rows)]
    write_text(path.with_suffix(".md"), "\n".join(lines) + "\n")
    with replacing(path.with_suffix(".png")) as temporary:
        draw(temporary, rows)


def gpu_times(rows: Sequence[Measured]) -> list[str]:
    """A second table, of what a GPU's time goes to; nothing without a GPU."""
    if all(each.gpu is None for each in rows):
        return []
    lines = ["", "| what | size | the GPU works | kernels | on |", "|---|---|---:|---:|---|"]
    for each in rows:
        if each.gpu is not None:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in each.gpu.shares.items() if share >= 0.03)
            busy = min(each.gpu.busy / each.seconds, 1)
            lines.append(f"| {each.name} | {each.size} | {busy:.0%} of the time | {each.gpu.kernels} | {shares} |")
    return lines


def draw(path: Path, rows: Sequence[Measured]) -> None:
    """Ratios as bars; under them each line's time over its count."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    compared = [each for each in rows if each.ratio is not None]
    lines: dict[str, list[Measured]] = {}
    for each in rows:
        if each.line is not None:
            lines.setdefault(each.line, []).append(each)
    across = max(min(len(lines), 3), 1)
    down = -(-len(lines) // across)
    heights = [0.28 * len(compared) + 0.9, 2.6 * down]
    figure = pyplot.figure(figsize=(11, sum(heights)), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=heights)
    draw_ratios(figure.add_subfigure(grid[0]).add_subplot(), compared)
    growth = figure.add_subfigure(grid[1])
    for index, (name, points) in enumerate(lines.items()):
        draw_growth(growth.add_subplot(down, across, index + 1), name, points)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_ratios(axes: Axes, rows: Sequence[Measured]) -> None:
    """A bar a row from 1 to its ratio, on a logarithmic axis."""
    ratios = [each.ratio or 0.0 for each in rows]
    drawn = axes.barh(range(len(rows)), [ratio - 1 for ratio in ratios], left=1, color=COLOUR)
    axes.bar_label(drawn, [gain(each) for each in rows], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{each.name}, {each.size}" for each in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlim(0.9 * min([1, *ratios]), 1.5 * max([1, *ratios]))
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_title("Times as fast as the plain reference (logarithmic)", fontsize=10)


def draw_growth(axes: Axes, name: str, points: Sequence[Measured]) -> None:
    """Seconds over the count, from 0 on, and straight on through the last two points."""
    what, _, counted = name.partition(" by ")
    counts, seconds = [float(each.count or 0) for each in points], [each.seconds for each in points]
    axes.plot(counts, seconds, "o-", color=COLOUR, clip_on=False)
    if len(points) > 1:
        slope = (seconds[-1] - seconds[-2]) / (counts[-1] - counts[-2])
        ends = [0.0, counts[-1]]
        axes.plot(ends, [seconds[-1] + slope * (end - counts[-1]) for end in ends], "--", color="gray", lw=0.8)
    axes.set_ylim(0, 1.08 * max(seconds))
    axes.set_xlim(0, 1.04 * max(counts))
    axes.locator_params(axis="x", integer=True)
    axes.set_title(what, fontsize=9)
    axes.set_xlabel(counted, fontsize=8)
    axes.set_ylabel("seconds", fontsize=8)
    axes.tick_params(labelsize=8)
