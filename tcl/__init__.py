"""TCL: text-grounded contrastive learning for open-world semantic segmentation from image-text pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcl.errors import TCLError
    from tcl.inference.load import load
    from tcl.model.tokenizer import tokenize
    from tcl.segmenter.segmenter import Segmenter

__all__ = ["Segmenter", "TCLError", "load", "tokenize"]

_HOMES = {
    "Segmenter": "tcl.segmenter.segmenter",
    "TCLError": "tcl.errors",
    "load": "tcl.inference.load",
    "tokenize": "tcl.model.tokenizer",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import tcl` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tcl' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
