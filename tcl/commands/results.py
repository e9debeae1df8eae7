"""Result files: what a variant scored on a benchmark, and apart from it how long that took."""

from __future__ import annotations

from pathlib import Path

from tcl.files import write_json
from tcl.inference.evaluate import Outcome


def write_outcome(outcome: Outcome, variant: str, benchmark: str) -> None:
    """Write results/<variant>/<benchmark>.json, the same in every run, and timings/... with the seconds."""
    images = outcome.result["images"]
    write_json(
        Path(f"timings/{variant}/{benchmark}.json"),
        {"seconds": round(outcome.seconds, 2), "seconds_per_image": round(outcome.seconds / images, 4)},
    )
    write_json(Path(f"results/{variant}/{benchmark}.json"), outcome.result)
