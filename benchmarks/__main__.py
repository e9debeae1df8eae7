"""python -m benchmarks [--full] [--only AREA ...]: time what the project does against plain PyTorch code.

The table is printed while it grows, and kept under benchmarks/results/ as JSON, Markdown and a picture; a run compares
itself with the JSON that it finds there. With --only nothing is kept.
"""

from __future__ import annotations

import argparse
import gc
import pkgutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import benchmarks.cases
from benchmarks.gpu_time import gpu_time
from benchmarks.measure import DEVICE, Case, Speed, measure
from benchmarks.results import HEAD, gpu_times, header, machine, read, row, save
from tcl.commands.boundary import boundary

BUDGET = {False: 4.0, True: 40.0}
"""Seconds after which a case gets no further pair, without and with --full."""

AREAS = [module.name for module in pkgutil.iter_modules(benchmarks.cases.__path__)]
ON_A_PROCESSOR = {"pairs", "startup"}
"""Areas that no GPU has a part in."""


def main() -> None:
    """Run the cases; print, compare and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more sizes and more pairs")
    parser.add_argument("--only", nargs="+", choices=AREAS, default=None, metavar="AREA", help=", ".join(AREAS))
    given = parser.parse_args()
    path = Path("benchmarks/results") / f"{DEVICE.type}{'-full' if given.full else ''}.json"
    saved = read(path)
    speed = Speed()
    print(header(machine(speed), saved), HEAD, sep="\n\n", flush=True)
    here = [area for area in AREAS if DEVICE.type == "cpu" or area not in ON_A_PROCESSOR]
    rows = []
    for case in cases(given.only or here, given.full):
        rows.append(measure(case, speed, budget=BUDGET[given.full]))
        print(row(rows[-1], saved), flush=True)
        del case
    if DEVICE.type == "cuda":  # last, as kernels start more slowly after a first profile
        profiled = (gpu_time(case.ours) for case in cases(given.only or here, given.full))
        rows = [replace(each, gpu=found) for each, found in zip(rows, profiled, strict=True)]
        print(*gpu_times(rows), sep="\n")
    if given.only is None:
        save(path, rows, machine(speed))
        print(f"\nKept in {path}, .md and .png.")


def cases(areas: list[str], full: bool) -> Iterator[Case]:
    """One after the other; what a case holds is freed before the next one is made."""
    for area in areas:
        for case in import_module(f"benchmarks.cases.{area}").cases(full):
            yield case
            del case
            gc.collect()


if __name__ == "__main__":
    with boundary("benchmarks"):
        main()
