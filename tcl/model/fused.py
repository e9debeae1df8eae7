"""Whether a device runs the fused kernels, which are written in Triton; PyTorch's builds for GPUs bring it along."""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.util import find_spec

import torch


@lru_cache(maxsize=16)
def is_fused(device: torch.device) -> bool:
    """Whether it is a GPU with a Triton that works.

    That is tried on the first call, for Triton needs a C compiler and refuses old GPUs; a failure is warned of.
    """
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    try:
        from tcl.model.all_pairs_fused import FusedSummarise

        features, texts = torch.zeros(1, 4, 4, 4, device=device), torch.zeros(1, 4, device=device)
        one = torch.ones((), device=device)
        FusedSummarise.apply(features, texts, one, one, slice(0, 1), False)[0].cpu()
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        warnings.warn(f"no fused kernels, which is slower: {type(error).__name__}: {reason[0]}", stacklevel=2)
        return False
    return True
