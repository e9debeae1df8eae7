"""python -m benchmarks [--full] [--only AREA ...]: time what the project does against plain PyTorch code.

The table is printed while it grows, and kept under benchmarks/results/ as JSON, Markdown and a picture; a run compares
itself with the JSON that it finds there. With --only nothing is kept.
"""

from __future__ import annotations

import argparse
import gc
import pkgutil
from importlib import import_module
from pathlib import Path

import benchmarks.cases
from benchmarks.measure import DEVICE, Measured, Speed, measure
from benchmarks.results import HEAD, header, machine, read, row, save

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
    rows: list[Measured] = []
    here = [area for area in AREAS if DEVICE.type == "cpu" or area not in ON_A_PROCESSOR]
    for area in given.only or here:
        for case in import_module(f"benchmarks.cases.{area}").cases(given.full):
            rows.append(measure(case, speed, budget=BUDGET[given.full]))
            print(row(rows[-1], saved), flush=True)
            del case
            gc.collect()
    if given.only is None:
        save(path, rows, machine(speed))
        print(f"\nKept in {path}, .md and .png.")


if __name__ == "__main__":
    main()
