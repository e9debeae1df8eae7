"""The results as MLflow shows them: a run for the experiment, and below it one for each variant.

The numbers are copies of the result files, under names that are the same in every experiment, so that MLflow's compare
view lines them up.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tcl.commands.tracking import Run, tracked
from tcl.config import Config

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Result files by variant and benchmark key."""

SECTIONS = ("seed", "profile", "world", "clip", "model", "train", "inference", "evaluate", "baselines", "ablations")
"""What of the configuration tells experiments apart."""


@contextmanager
def mirrored(config: Config, results: Results, metrics: Mapping[str, Mapping[str, float]]) -> Iterator[Run]:
    """Log the results as the stage's run, to which the block may add files.

    metrics: mIoU in percent by variant and benchmark key or `average`, ablations among the variants.
    """
    values = config.model_dump(mode="json", include=set(SECTIONS))
    name = os.environ.get("DVC_EXP_NAME") or "workspace"
    with tracked(name, values, tags={"tcl.kind": "experiment"}) as run:
        run.log({f"{variant}/{key}": value for variant, row in metrics.items() for key, value in row.items()})
        for variant, scores in results.items():
            run.child(
                f"{name}/{variant}",
                parameters={"variant": variant, "evaluate": values["evaluate"]},
                metrics=dict(_scores(scores, metrics[variant].get("average"))),
                folders={kind: Path(kind) / variant for kind in ("results", "overlays")},
            )
        yield run


def _scores(scores: Mapping[str, Mapping[str, Any]], average: float | None) -> Iterator[tuple[str, float]]:
    for key, result in scores.items():
        yield from ((f"{metric}/{key}", result[metric]) for metric in ("mIoU", "mAcc", "aAcc"))
        for label, value in result["IoU"].items():
            if value is not None:
                yield f"IoU/{key}/{label}", value
    if average is not None:
        yield "mIoU/average", average
