"""How a model is to be used on images: the settings that a checkpoint carries."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Pixel statistics in RGB, of values in [0, 255]. TCL uses ImageNet's, not CLIP's, in training and evaluation."""


@dataclass(frozen=True)
class InferenceSettings:
    """The defaults are the paper's (Sec. 4.1).

    short_side, long_side: the image is resized by min(long_side / long, short_side / short). window, stride: of the
    sliding windows, in pixels. kp_w: weight of the frozen MaskCLIP map. bg_thresh: the constant background channel;
    None takes the threshold that belongs to PAMR on or off.
    """

    short_side: int = 448
    long_side: int = 2048
    window: int = 448
    stride: int = 224
    pamr: bool = True
    pamr_iterations: int = 10
    pamr_dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24)
    kp_w: float = 0.3
    bg_thresh: float | None = None
    bg_thresh_with_pamr: float = 0.4
    bg_thresh_without_pamr: float = 0.5
    templates: str = "custom"

    @property
    def background_threshold(self) -> float:
        """The threshold in force, in [0, 1]."""
        if self.bg_thresh is not None:
            return self.bg_thresh
        return self.bg_thresh_with_pamr if self.pamr else self.bg_thresh_without_pamr

    def but(self, **changes: Any) -> InferenceSettings:
        """These settings with some of them replaced; None means unchanged."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})

    def in_force(self, *, background: bool) -> dict[str, Any]:
        """What decides a result: the threshold resolved, and only where there is a background."""
        values = {name: value for name, value in asdict(self).items() if not name.startswith("bg_thresh")}
        return {**values, "bg_thresh": self.background_threshold if background else None}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any, *, source: str) -> InferenceSettings:
        """Settings from a file or a command line; raises TCLError, naming `source`, that lists all that is wrong."""
        from tcl.config import Inference, check_section

        return cls(**check_section(Inference, values, source=source).model_dump())
