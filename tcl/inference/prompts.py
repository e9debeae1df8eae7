"""Class names -> prompts -> class embeddings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any
from weakref import WeakKeyDictionary

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

KEPT_LISTS = 64
"""Lists of classes whose embeddings are kept of each CLIP, those used last."""

_kept: WeakKeyDictionary[Any, OrderedDict[Hashable, Tensor]] = WeakKeyDictionary()


@lru_cache(maxsize=1)
def _template_sets() -> dict[str, list[str]]:
    import_open_clip()
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    own = yaml.safe_load((files("tcl.inference") / "templates.yaml").read_text(encoding="utf-8"))
    return {"full": [template("{}") for template in OPENAI_IMAGENET_TEMPLATES], **own}


def prompt_templates(name: str) -> list[str]:
    """The templates of a set, or of several joined by `+`; each has one `{}` for the class name.

    Raises TCLError that lists the known sets if one is unknown.
    """
    sets, parts = _template_sets(), name.split("+")
    if unknown := [part for part in parts if part not in sets]:
        raise TCLError(
            f"templates: {', '.join(map(repr, unknown))} is no template set. There are: {', '.join(sets)}; several may "
            "be joined by a +."
        )
    return [template for part in parts for template in sets[part]]


@torch.no_grad()
def class_embeddings(clip: Clip, names: Sequence[str], templates: str | Sequence[str] = "custom") -> Tensor:
    """Embeddings [N, D] of class names, of length 1: mean of the raw text features over templates, then normalised.

    templates: the name of a set, or templates of one's own with a `{}` each (paper, Sec. 4.1). Asked for again with the
    same weights, they are taken from memory.
    """
    if not names:
        raise TCLError("class names: at least one is needed, none was given.")
    chosen = prompt_templates(templates) if isinstance(templates, str) else list(templates)
    wrong = [template for template in chosen if template.count("{}") != 1]
    if wrong or not chosen:
        raise TCLError(f"templates: each must hold '{{}}' once for the class name; got {wrong or 'none'}.")
    kept = _kept.setdefault(clip, OrderedDict())
    key = (tuple(names), tuple(chosen), _state(clip))
    if key not in kept:
        kept[key] = _embed(clip, names, chosen)
        if len(kept) > KEPT_LISTS:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key].clone()


def _embed(clip: Clip, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    context, device = clip.positional_embedding.shape[0], clip.positional_embedding.device
    prompts = [template.replace("{}", name) for name in names for template in templates]
    batches = [tokenize(prompts[i : i + BATCH], context).to(device) for i in range(0, len(prompts), BATCH)]
    features = torch.cat([encode_text(clip, tokens) for tokens in batches])
    return normalise(features.unflatten(0, (len(names), len(templates))).mean(dim=1))


def _state(clip: Clip) -> tuple[Hashable, ...]:
    """Changes whenever the text tower's weights are replaced, moved or written to."""
    weights = (weight for name, weight in clip.named_parameters() if not name.startswith("visual."))
    return tuple((each.data_ptr(), each.dtype, 0 if each.is_inference() else each._version) for each in weights)
