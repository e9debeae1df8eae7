"""A training under way: what changes from step to step, as it is saved and restored."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tcl.model.ranks import Ranks
from tcl.training.optim import Plan
from tcl.training.precision import Precision
from tcl.training.resume import ResumeDirectory

Row = dict[str, float]
"""What one logged step leaves behind: step, lr, grad_norm, loss terms, temperatures; the same in every run."""


class Task(Protocol):
    """What is trained."""

    parameters: dict[str, nn.Parameter]

    def begin(self, step: int) -> None:
        """Choose what learns from this step on."""

    def backward(self, batch: dict[str, Any], step: int, precision: Precision) -> dict[str, Tensor]:
        """Add the gradients of this rank's share of a batch; returns the loss terms, with their sum as `total`."""

    def temperatures(self) -> dict[str, Tensor]:
        """Learned scalars worth watching, by name."""

    def flops_per_pair(self, step: int) -> float:
        """Arithmetic of a step for each pair of the global batch."""


@dataclass
class Training:
    """The state of a training. skipped: steps that were not finite, in all and at the end; unreadable: images."""

    task: Task
    plan: Plan
    ranks: Ranks
    precision: Precision
    optimizer: torch.optim.AdamW
    next_step: int = 0
    rows: list[Row] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    unreadable: int = 0

    def begin(self, resume: ResumeDirectory, title: str) -> None:
        """Take the saved state, or else the first rank's weights, on every rank."""
        state = self.ranks.share(resume.load() if self.ranks.first else None)
        if state is None:
            self.ranks.copy_from_first([p.detach() for p in self.task.parameters.values()])
            return
        self._restore(state)
        if self.ranks.first:
            print(f"{title}: goes on at step {self.next_step}, from {resume.path}.", file=sys.stderr)

    def save(self, resume: ResumeDirectory, title: str) -> str:
        """Save the state, on all ranks at the same step; returns where things stand, in words.

        A disk that does not take it is no reason to end: the user is told, and what was saved before remains.
        """
        state = self._state()
        if not self.ranks.first:
            return ""
        try:
            resume.save(state, self.next_step)
        except OSError as error:
            last = resume.checkpoints[0].name if resume.checkpoints else "none"
            told = f"the state could not be saved in {resume.path} ({error.strerror}); the newest there: {last}"
            print(f"{title}: {told}. Make room.", file=sys.stderr)
            return told
        return f"the state is saved in {resume.path}; run the same command again to go on"

    def _state(self) -> dict[str, Any]:
        return {
            "next_step": self.next_step,  # gives the learning rate, the data and all keyed draws their place too
            "parameters": {name: p.detach() for name, p in self.task.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),
            "random": self.ranks.collect(_random_state(self.ranks.device)),
            "rows": self.rows,
            "skipped": [self.skipped, self.skipped_in_a_row],
            "unreadable": self.unreadable,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            for name, parameter in self.task.parameters.items():
                parameter.copy_(state["parameters"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.precision.scaler.is_enabled():
            self.precision.scaler.load_state_dict(state["scaler"])
        if len(state["random"]) == self.ranks.size:
            _set_random_state(self.ranks.device, state["random"][self.ranks.rank])
        self.next_step, self.rows = state["next_step"], state["rows"]
        self.skipped, self.skipped_in_a_row = state["skipped"]
        self.unreadable = state["unreadable"]


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _set_random_state(device: torch.device, state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
