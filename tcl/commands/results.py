"""Result files: what a model scored on a benchmark, and apart from it how long that took."""

from __future__ import annotations

from pathlib import Path

from tcl.files import write_json
from tcl.inference.evaluate import Outcome


def write_outcome(outcome: Outcome, place: str, *, weights: str) -> None:
    """Write results/<place>.json, the same in every run, and timings/<place>.json with the seconds.

    weights: SHA-256 of the file that the model came from.
    """
    images = outcome.result["images"]
    write_json(
        Path(f"timings/{place}.json"),
        {"seconds": round(outcome.seconds, 2), "seconds_per_image": round(outcome.seconds / images, 4)},
    )
    write_json(Path(f"results/{place}.json"), {**outcome.result, "weights": weights})
