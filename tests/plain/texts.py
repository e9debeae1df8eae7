"""Class embeddings by CLIP's own text tower over all 77 positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tcl.model.clip import Clip
from tcl.model.tokenizer import tokenize


@torch.no_grad()
def class_embeddings(clip: Clip, names: Sequence[str], templates: Sequence[str], *, batch: int = 256) -> Tensor:
    """Embeddings [N, D] of class names, of length 1: the mean over templates of the raw features, then normalised."""
    context = clip.positional_embedding.shape[0]
    tokens = tokenize([template.replace("{}", name) for name in names for template in templates], context)
    tokens = tokens.to(clip.positional_embedding.device)
    features = torch.cat([clip.encode_text(part) for part in tokens.split(batch)])
    means = features.unflatten(0, (len(names), len(templates))).mean(dim=1)
    return means / means.norm(dim=1, keepdim=True)
