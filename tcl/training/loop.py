"""The training loop: one for TCL and for the demo's CLIP."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tcl.errors import TCLError
from tcl.model.ranks import Ranks
from tcl.progress import progress
from tcl.training.optim import Plan, adamw, learning_rate
from tcl.training.resume import ResumeDirectory

Row = dict[str, float]
"""What one logged step leaves behind: step, lr, grad_norm and each loss term, means over ranks."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Task(Protocol):
    """What is trained."""

    parameters: dict[str, nn.Parameter]

    def begin(self, step: int) -> None:
        """Choose what learns from this step on."""

    def losses(self, batch: dict[str, Any], step: int) -> dict[str, Tensor]:
        """Loss terms of one batch, with their sum as `total`."""


def fit(
    task: Task,
    batches: Dataset[Any],
    *,
    plan: Plan,
    ranks: Ranks,
    resume: ResumeDirectory,
    precision: str = "float32",
    workers: int = 0,
    title: str = "train",
    on_log: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Train until `plan.last_step`, from the saved state if there is one; returns the logged rows of all steps.

    batches: map-style, indexed by step; each item is this rank's share of that step's global batch. Gradients are the
    mean over ranks, clipped once by their global norm. Raises TCLError if a loss is not finite.
    """
    optimizer = adamw(task.parameters.values(), plan)
    scaler = torch.amp.GradScaler(ranks.device.type, enabled=precision == "float16")
    start, rows = _restore(resume, task, optimizer, scaler)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(start, plan.last_step + 1),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    bar = progress(title=title, unit="step", total=plan.last_step + 1, done=start, shown=ranks.first)
    skipped, began, seen = 0, time.monotonic(), 0
    for step, batch in zip(range(start, plan.last_step + 1), loader, strict=True):
        task.begin(step)
        terms, norm = _step(task, batch, step, optimizer, scaler, plan=plan, ranks=ranks, precision=precision)
        skipped += int(batch["unreadable"])
        seen += len(batch["images"]) * ranks.size
        bar.update()
        if step % plan.log_every == 0 or step == plan.last_step:
            row = _row(step, optimizer, terms, norm, ranks)
            rows.append(row)
            bar.set_postfix_str(_progress(row, seen / (time.monotonic() - began)))
            if ranks.first:
                on_log(row)
        if (step + 1) % plan.checkpoint_every == 0 and step != plan.last_step and ranks.first:
            resume.save(_state(task, optimizer, scaler, step + 1, rows))
    bar.close()
    total_skipped = sum(ranks.collect(skipped))
    if total_skipped and ranks.first:
        print(f"{title}: {total_skipped} unreadable images were replaced by others.", file=sys.stderr)
    return rows


def _step(
    task: Task,
    batch: dict[str, Any],
    step: int,
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    *,
    plan: Plan,
    ranks: Ranks,
    precision: str,
) -> tuple[dict[str, Tensor], Tensor]:
    """One optimisation step; returns the loss terms and the gradient norm before clipping."""
    rate = learning_rate(step, peak=plan.lr, floor=plan.min_lr, warmup=plan.warmup, last_step=plan.last_step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(ranks.device.type, DTYPES.get(precision), enabled=precision in DTYPES):
        terms = task.losses(batch, step)
    scaler.scale(terms["total"]).backward()
    gradients = [p.grad for p in task.parameters.values() if p.grad is not None]
    ranks.average(gradients)
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(task.parameters.values(), plan.clip_norm)
    if precision != "float16" and not torch.isfinite(norm):
        raise TCLError(
            f"step {step}: the gradient is not finite (loss {float(terms['total'].detach())}). "
            f"The batch's keys: {', '.join(batch['keys'][:8])}... Lower the learning rate or look at these pairs."
        )
    scaler.step(optimizer)
    scaler.update()
    return {name: value.detach() for name, value in terms.items()}, norm


def _row(step: int, optimizer: torch.optim.AdamW, terms: dict[str, Tensor], norm: Tensor, ranks: Ranks) -> Row:
    means = torch.stack([value.float() for value in terms.values()])
    ranks.average([means])
    losses = dict(zip(terms, means.tolist(), strict=True))
    return {"step": step, "lr": optimizer.param_groups[0]["lr"], "grad_norm": float(norm), **losses}


def _progress(row: Row, rate: float) -> str:
    terms = " ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in {"step", "lr"})
    return f"{terms} {rate:.0f} pairs/s"


def _state(
    task: Task, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler, step: int, rows: list[Row]
) -> dict[str, Any]:
    return {
        "step": step,
        "parameters": {name: p.detach() for name, p in task.parameters.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "rows": rows,
    }


def _restore(
    resume: ResumeDirectory, task: Task, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler
) -> tuple[int, list[Row]]:
    """Load the saved state, if any; returns the step to go on from and the rows logged before it."""
    state = resume.load()
    if state is None:
        return 0, []
    with torch.no_grad():
        for name, parameter in task.parameters.items():
            parameter.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return state["step"], state["rows"]
