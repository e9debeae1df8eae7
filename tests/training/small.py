"""A small training through the library, without the stage around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from tcl.model.build import build_tcl
from tcl.model.checkpoint import load_clip
from tcl.model.ranks import Ranks
from tcl.training.data import open_pairs, training_batches
from tcl.training.loop import fit
from tcl.training.resume import resume_directory
from tcl.training.snapshots import Snapshots
from tcl.training.state import Row
from tcl.training.tasks import TCLTask

from .workplace import SIZES


@dataclass(frozen=True)
class SmallPlan:
    """An optimisation of a few steps."""

    global_batch: int = 8
    last_step: int = 19
    warmup: int = 2
    lr: float = 4e-3
    min_lr: float = 4e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-6
    weight_decay: float = 0.05
    clip_norm: float = 5.0
    log_every: int = 1
    checkpoint_every: int = 5


class Meddled(Dataset[Any]):
    """Batches that something is done to as they are loaded."""

    def __init__(self, batches: Dataset[Any], meddle: Callable[[int, Any], Any]) -> None:
        self.batches, self.meddle = batches, meddle

    def __getitem__(self, step: int) -> Any:
        return self.meddle(step, self.batches[step])


@dataclass(frozen=True)
class Small:
    """A training of the workplace's data and CLIP, ten steps in each phase, to be run by `on_ranks`.

    state: where its resume directory lies. meddle: what happens to each batch, by rank and step, as it is loaded.
    """

    workplace: Path
    state: Path
    plan: SmallPlan = SmallPlan()
    meddle: Callable[[int, int, Any], Any] = lambda rank, step, batch: batch
    double: bool = False
    micro_batch: int | None = None
    precision: str = "float32"
    workers: int = 0
    timeout: float = 60

    def __call__(self, ranks: Ranks) -> dict[str, Any]:
        """The logged rows, the learned weights, and each step's gradients."""
        task, gradients = self.task(ranks), []

        def keep(row: Row) -> None:
            gradients.append({n: p.grad.clone() for n, p in task.parameters.items() if p.grad is not None})

        with resume_directory(self.state, "train", {"plan": asdict(self.plan)}, first=ranks.first) as resume:
            rows = fit(
                task,
                Meddled(self.batches(ranks), lambda step, batch: self.meddle(ranks.rank, step, batch)),
                plan=self.plan,
                ranks=ranks,
                resume=resume,
                precision=self.precision,
                workers=self.workers,
                timeout=self.timeout,
                snapshots=Snapshots(resume.path / "snapshots", every=8),
                on_log=keep,
            )
        return {"rows": rows, "weights": {n: p.detach() for n, p in task.parameters.items()}, "gradients": gradients}

    def batches(self, ranks: Ranks) -> Dataset[Any]:
        """The rank's share of the workplace's pairs."""
        batches = training_batches(
            open_pairs(["world"], shards=self.workplace / "data", manifests=self.workplace / "manifests/pairs"),
            augmentation="flip",
            image_size=SIZES.image_size,
            context_length=SIZES.context_length,
            seed=0,
            global_batch=self.plan.global_batch,
            steps=self.plan.last_step + 1,
            ranks=ranks,
            mask_grid=(8, 8),
        )
        if not self.double:
            return batches
        return Meddled(batches, lambda step, batch: {**batch, **{k: batch[k].double() for k in ("images", "noise")}})

    def task(self, ranks: Ranks) -> TCLTask:
        """TCL with gates that are open, so that every part learns from the first step."""
        torch.manual_seed(0)
        model = build_tcl(load_clip(self.workplace / "weights/clip.safetensors"), frozen_blocks=1, decoder_levels=1)
        for name, parameter in model.grounder.named_parameters():
            if name.endswith("gate"):
                nn.init.constant_(parameter, 0.5)
        return TCLTask(
            model.double() if self.double else model,
            decoder_only_steps=10,
            global_batch=self.plan.global_batch,
            ranks=ranks,
            micro_batch=self.micro_batch,
        )
