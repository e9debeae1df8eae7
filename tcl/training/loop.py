"""The training loop: one for TCL and for the demo's CLIP."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from tcl.errors import TCLError
from tcl.model.ranks import Ranks
from tcl.progress import progress
from tcl.training.loading import batches_from
from tcl.training.meter import Meter, in_words, matrix_peak
from tcl.training.optim import Plan, adamw, learning_rate
from tcl.training.precision import Precision
from tcl.training.resume import ResumeDirectory
from tcl.training.snapshots import Snapshots
from tcl.training.state import Row, Task, Training
from tcl.training.stop import StopRequest, stop_requests
from tcl.training.watchdog import watchdog

BAD_STEPS = 10
"""Steps in a row whose loss or gradient is not finite, after which training ends."""

BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
"""tqdm's bar without its own forecast, which knows nothing of phases."""


@dataclass(frozen=True)
class Step:
    """What a step came to, the same on every rank: mean loss terms, gradient norm, whether a rank is asked to stop."""

    number: int
    terms: dict[str, float]
    grad_norm: float
    stop: bool

    @property
    def finite(self) -> bool:
        return math.isfinite(self.terms["total"]) and math.isfinite(self.grad_norm)


def fit(
    task: Task,
    batches: Dataset[Any],
    *,
    plan: Plan,
    ranks: Ranks,
    resume: ResumeDirectory,
    precision: str = "float32",
    workers: int = 0,
    timeout: float = 600,
    title: str = "train",
    snapshots: Snapshots | None = None,
    on_log: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Train until `plan.last_step`, from the saved state if there is one; returns the logged rows of all steps.

    batches: map-style, indexed by step; each item is this rank's share of that step's global batch. Gradients are the
    mean over ranks, clipped once by their global norm. A step whose loss or gradient is not finite changes nothing.
    timeout: seconds that a step may take, after which the process is ended where it hangs. on_log gets each row with
    the speed beside it; rows hold no times.

    SIGTERM, SIGUSR1, SIGHUP or Ctrl-C on any rank end the training after the step, with its state saved. Raises
    TCLError then, after `BAD_STEPS` steps in a row that are not finite, and when data or another rank are lost.
    """
    training = Training(task, plan, ranks, Precision(precision, ranks.device), adamw(task.parameters.values(), plan))
    training.begin(resume, title)
    steps = range(training.next_step, plan.last_step + 1)
    meter = Meter(
        task.flops_per_pair,
        steps,
        pairs=plan.global_batch,
        ranks=ranks.size,
        peak=matrix_peak(ranks.device, training.precision.dtype),
    )
    bar = progress(title=title, unit="step", total=plan.last_step + 1, done=training.next_step, shown=ranks.first)
    bar.bar_format = BAR
    with stop_requests() as request, watchdog(timeout, title) as dog, bar:
        for number, batch in batches_from(batches, steps, workers=workers, waited=meter.waited):
            task.begin(number)
            step = _step(training, batch, number, request)
            meter.count(number)
            dog.report()
            bar.update()
            if not step.finite:
                _note_bad_step(training, step, batch["keys"], resume)
            elif number % plan.log_every == 0 or number == plan.last_step:
                _log(training, step, meter, bar, on_log)
            if snapshots and ranks.first:
                snapshots.keep(task.parameters, number, plan.last_step)
            stopping = step.stop and number != plan.last_step
            if stopping or (number + 1) % plan.checkpoint_every == 0 or number == plan.last_step:
                saved = training.save(resume, title)
            if stopping:
                _end(ranks, f"asked to stop after step {number} of {plan.last_step}; {saved}.")
    _report(training, title)
    return training.rows


def _step(training: Training, batch: dict[str, Any], number: int, request: StopRequest) -> Step:
    """One optimisation step. The gradients' all-reduce carries the loss terms and the wish to stop along."""
    task, plan, ranks, optimizer = training.task, training.plan, training.ranks, training.optimizer
    scaler = training.precision.scaler
    rate = learning_rate(number, peak=plan.lr, floor=plan.min_lr, warmup=plan.warmup, last_step=plan.last_step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    terms = task.backward(batch, number, training.precision)
    gradients = [p.grad for p in task.parameters.values() if p.grad is not None]
    flags = torch.tensor([float(request.signal is not None), float(batch["unreadable"])], device=ranks.device)
    told = torch.stack([value.detach().to(gradients[0]) for value in (*terms.values(), *flags)])
    ranks.average([*gradients, told])
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(task.parameters.values(), plan.clip_norm)
    *values, stop, unreadable, grad_norm = torch.cat([told, norm.detach().to(told)[None]]).tolist()
    step = Step(number, dict(zip(terms, values, strict=True)), grad_norm, stop > 0)
    if step.finite:
        scaler.step(optimizer)
    scaler.update()
    training.next_step = number + 1
    training.skipped += not step.finite
    training.skipped_in_a_row = 0 if step.finite else training.skipped_in_a_row + 1
    training.unreadable += round(unreadable * ranks.size)
    return step


def _note_bad_step(training: Training, step: Step, keys: list[str], resume: ResumeDirectory) -> None:
    """Keep the keys of a batch that was skipped; end the training if it is the last of too many."""
    ranks, file = training.ranks, resume.path / "not_finite.jsonl"
    every = [key for share in ranks.collect(keys) for key in share]
    if ranks.first:
        record = {"step": step.number, "losses": step.terms, "grad_norm": step.grad_norm, "keys": every}
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        print(f"step {step.number}: loss or gradient is not finite; skipped, see {file}.", file=sys.stderr)
    if training.skipped_in_a_row >= BAD_STEPS:
        _end(
            ranks,
            f"loss or gradient were not finite in {BAD_STEPS} steps in a row, up to step {step.number}. Their losses "
            f"and the keys of their pairs are in {file}. Look at these pairs, or lower the learning rate.",
        )


def _log(training: Training, step: Step, meter: Meter, bar: Any, on_log: Callable[[Row], None]) -> None:
    temperatures = {name: float(value.detach()) for name, value in training.task.temperatures().items()}
    rate = training.optimizer.param_groups[0]["lr"]
    row = {"step": step.number, "lr": rate, "grad_norm": step.grad_norm, **step.terms, **temperatures}
    training.rows.append({**row, "skipped": training.skipped})
    if training.ranks.first:
        speed = meter.read()
        on_log({**training.rows[-1], **speed})
        bar.set_postfix_str(in_words(row, speed, meter.remaining()), refresh=False)


def _end(ranks: Ranks, message: str) -> None:
    """End the training on all ranks, which are here together; the first one says why."""
    ranks.barrier()  # a rank that left while the first one writes would have it killed
    raise TCLError(message) if ranks.first else SystemExit(1)


def _report(training: Training, title: str) -> None:
    """Say what was not as it should be."""
    if not training.ranks.first:
        return
    if training.unreadable:
        print(f"{title}: {training.unreadable} unreadable images were replaced by others.", file=sys.stderr)
    if training.skipped:
        print(f"{title}: {training.skipped} steps were skipped, not being finite.", file=sys.stderr)
