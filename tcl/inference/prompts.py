"""Class names -> prompts -> class embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files

import torch
import yaml
from torch import Tensor

from tcl.errors import TCLError
from tcl.mends import import_open_clip
from tcl.model.clip import Clip, encode_text
from tcl.model.losses import normalise
from tcl.model.tokenizer import tokenize

BATCH = 256
"""Prompts that go through the text tower at once."""


@lru_cache(maxsize=1)
def _own_templates() -> dict[str, list[str]]:
    return yaml.safe_load((files("tcl.inference") / "templates.yaml").read_text(encoding="utf-8"))


def prompt_templates(name: str) -> list[str]:
    """The template set of this name; each template has one `{}` for the class name. Raises TCLError if unknown."""
    own = _own_templates()
    if name in own:
        return own[name]
    import_open_clip()
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

    openai = {"full": OPENAI_IMAGENET_TEMPLATES, "subset": SIMPLE_IMAGENET_TEMPLATES}
    if name not in openai:
        raise TCLError(f"templates: {name!r} is no template set; known are {', '.join([*own, *openai])}.")
    return [template("{}") for template in openai[name]]


@torch.no_grad()
def class_embeddings(clip: Clip, names: Sequence[str], templates: str | Sequence[str] = "custom") -> Tensor:
    """Embeddings [N, D] of class names, of length 1: mean of the raw text features over templates, then normalised.

    templates: the name of a set, or templates of one's own with a `{}` each (paper, Sec. 4.1).
    """
    if not names:
        raise TCLError("class names: at least one is needed, none was given.")
    chosen = prompt_templates(templates) if isinstance(templates, str) else list(templates)
    wrong = [template for template in chosen if template.count("{}") != 1]
    if wrong or not chosen:
        raise TCLError(f"templates: each must hold '{{}}' once for the class name; got {wrong or 'none'}.")
    context, device = clip.positional_embedding.shape[0], clip.positional_embedding.device
    prompts = [template.format(name) for name in names for template in chosen]
    batches = [tokenize(prompts[i : i + BATCH], context).to(device) for i in range(0, len(prompts), BATCH)]
    features = torch.cat([encode_text(clip, tokens) for tokens in batches])
    return normalise(features.unflatten(0, (len(names), len(chosen))).mean(dim=1))
