"""Half precision: autocast, and loss scaling for float16."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision:
    """How a step computes. name: a key of `DTYPES`; parameters stay as they are, float32 as a rule."""

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype, self.device = DTYPES[name], device
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)

    def autocast(self) -> torch.autocast:
        """A context for forward passes.

        Enter it anew for each: its cache of weights cast without a graph must not meet a pass that needs one.
        """
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype if half else None, enabled=half)

    def backward(self, total: Tensor) -> None:
        """Backward from the (scaled) loss."""
        self.scaler.scale(total).backward()
