"""The table of a run: read, compared, printed, drawn and kept."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import DEVICE, Measured, Speed
from tcl.files import replacing, write_json, write_text

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
    """The processor's name, as Linux or Python gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def read(path: Path) -> dict[str, Any] | None:
    """A saved table, or None."""
    if not path.is_file():
        return None
    saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    saved["rows"] = {(each["name"], each["size"]): each for each in saved["cases"]}
    return saved


def header(machine: Mapping[str, Any], saved: Mapping[str, Any] | None) -> str:
    """What the table was measured on, and what it is compared with."""
    products = ", ".join(f"{rate:.0f} GFLOP/s in {name}" for name, rate in machine["matrix_gflops"].items())
    text = (
        f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}. Matrix products reach "
        f"{products}; copying reads and writes {machine['copy_gbytes']:.1f} GB/s."
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
        "" if each.ratio is None else f"{each.ratio:.2f}" if each.ratio < 10 else f"{each.ratio:.0f}",
        size(each.memory),
        size(each.plain_memory),
        "" if each.difference is None else f"{each.difference:.0e}" if each.difference else "0",
        "" if each.of_bound is None else f"{each.of_bound:.0%} {each.bound}",
        "" if before is None else f"{before['seconds'] / each.seconds:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def duration(seconds: float) -> str:
    """Seconds in three digits, or milliseconds."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def size(count: int | None) -> str:
    """Bytes as MB."""
    return "" if count is None else f"{count / 1e6:.0f} MB"


def save(path: Path, rows: Sequence[Measured], machine: Mapping[str, Any]) -> None:
    """Keep a table as JSON, Markdown and a picture, whose names differ in their suffix."""
    write_json(path, {"machine": machine, "cases": [asdict(each) for each in rows]})
    lines = [header(machine, None), "", HEAD, *(row(each) for each in rows)]
    write_text(path.with_suffix(".md"), "\n".join(lines) + "\n")
    with replacing(path.with_suffix(".png")) as temporary:
        draw(temporary, rows)


def draw(path: Path, rows: Sequence[Measured]) -> None:
    """Ratios as bars; under them each line's time over its count, and straight on through its last two points."""
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
    figure = pyplot.figure(figsize=(11, 1 + 0.28 * len(compared) + 2.8 * down), layout="constrained")
    grid = figure.add_gridspec(1 + down, across, height_ratios=[0.28 * len(compared) + 0.6] + [2.8] * down)

    bars = figure.add_subplot(grid[0, :])
    names = [f"{each.name}, {each.size}" for each in compared]
    ratios = [each.ratio or 0.0 for each in compared]
    drawn = bars.barh(range(len(ratios)), [ratio - 1 for ratio in ratios], left=1, color="#3b6ea5")
    bars.bar_label(drawn, [f"{ratio:.3g}" for ratio in ratios], padding=3, fontsize=8)
    bars.set_yticks(range(len(ratios)), names, fontsize=8)
    bars.invert_yaxis()
    bars.set_xscale("log")
    bars.axvline(1, color="black", linewidth=0.8)
    bars.set_title("times as fast as the plain reference", fontsize=10)

    for index, (name, points) in enumerate(lines.items()):
        chart = figure.add_subplot(grid[1 + index // across, index % across])
        counts, seconds = [float(each.count or 0) for each in points], [each.seconds for each in points]
        chart.plot(counts, seconds, "o-", color="#3b6ea5")
        if len(points) > 1:
            slope = (seconds[-1] - seconds[-2]) / (counts[-1] - counts[-2])
            ends = [0.0, counts[-1]]
            chart.plot(ends, [seconds[-1] + slope * (end - counts[-1]) for end in ends], "--", color="gray", lw=0.8)
        chart.set_ylim(bottom=0)
        chart.set_xlim(left=0)
        chart.set_title(name, fontsize=9)
        chart.set_ylabel("seconds", fontsize=8)
        chart.tick_params(labelsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
