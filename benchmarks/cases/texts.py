"""Class names to embeddings: COCO-Stuff's names in nine templates, ViT-B/16's text tower."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.measure import Case
from benchmarks.random_model import segmenter
from tcl.datasets import benchmark as benchmarks
from tcl.inference.prompts import class_embeddings, prompt_templates
from tcl.model import flops
from tcl.model.clip import clip_sizes
from tcl.model.tokenizer import tokenize
from tests.plain.texts import class_embeddings as plain_embeddings


def cases(full: bool) -> Iterator[Case]:
    """20 and 171 classes, anew and once more."""
    clip = segmenter().clip
    names, templates = list(benchmarks.load("coco_stuff").classes), prompt_templates("custom")
    for classes in (5, 10, 20, 171) if full else (5, 10, 20):
        chosen = names[:classes]

        def anew(chosen: list[str] = chosen) -> torch.Tensor:
            clip.text_projection.add_(0)  # written to, so that nothing that is kept applies
            return class_embeddings(clip, chosen, templates)

        prompts = [template.format(name) for name in chosen for template in templates]
        lengths = tokenize(prompts).argmax(dim=1) + 1
        sizes = clip_sizes(clip)
        yield Case(
            "class embeddings",
            f"{classes} classes x {len(templates)} prompts",
            anew,
            partial(plain_embeddings, clip, chosen, templates) if classes >= 20 else None,
            flops=sum(flops.blocks(sizes.text_layers, sizes.text_width, int(length)) for length in lengths),
            line="class embeddings by classes",
            count=classes,
        )
    yield Case("class embeddings, asked for again", f"{classes} classes", partial(class_embeddings, clip, chosen), None)
