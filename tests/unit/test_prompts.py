"""Template sets by their official names, and class embeddings of own templates."""

import pytest
import torch
from torch.testing import assert_close

from tcl.errors import TCLError
from tcl.inference.prompts import class_embeddings, prompt_templates
from tcl.model.clip import Clip, ClipSizes, build_clip
from tcl.model.tokenizer import tokenize

SIZES = {
    "full": 80,
    "maskclip": 5,
    "subset": 7,
    "simple": 1,
    "plural": 1,
    "identity": 1,
    "custom": 9,
    "full+maskclip": 85,
    "subset+maskclip": 12,
}


@pytest.fixture
def clip() -> Clip:
    torch.manual_seed(0)
    sizes = ClipSizes(16, 16, 8, 64, 1, 1, context_length=10, text_width=64, text_layers=1, text_heads=1)
    return build_clip(sizes).eval()


@pytest.mark.parametrize("name", SIZES)
def test_official_sets(name: str) -> None:
    templates = prompt_templates(name)
    assert len(templates) == len(set(templates)) == SIZES[name]
    assert all(template.count("{}") == 1 for template in templates)


def test_what_the_sets_hold() -> None:
    assert prompt_templates("custom") == [*prompt_templates("subset"), "a photo of many {}.", "a photo of {}s."]
    assert "a bad photo of a {}." in prompt_templates("subset")
    assert prompt_templates("full+maskclip") == prompt_templates("full") + prompt_templates("maskclip")
    assert (prompt_templates("simple"), prompt_templates("identity")) == (["a photo of a {}."], ["{}"])


def test_embeddings_are_means_over_templates(clip: Clip) -> None:
    templates = ["a {}.", "two {}s in {{braces}}"]
    found = class_embeddings(clip, ["cat", "{x}"], templates)
    for row, prompts in zip(
        found, (["a cat.", "two cats in {{braces}}"], ["a {x}.", "two {x}s in {{braces}}"]), strict=True
    ):
        mean = clip.encode_text(tokenize(prompts, 10)).mean(dim=0)
        assert_close(row, mean / mean.norm())
    assert_close(found.norm(dim=1), torch.ones(2))


def test_what_is_no_template_set(clip: Clip) -> None:
    with pytest.raises(TCLError, match=r"'best' is no template set\. There are: full, maskclip, subset, .*custom"):
        class_embeddings(clip, ["cat"], "best+simple")
    with pytest.raises(TCLError, match=r"each must hold '\{\}' once for the class name; got \['a cat'\]"):
        class_embeddings(clip, ["cat"], ["a {}", "a cat"])
    with pytest.raises(TCLError, match="got none"):
        class_embeddings(clip, ["cat"], [])
    with pytest.raises(TCLError, match="at least one is needed"):
        class_embeddings(clip, [])


def test_embeddings_are_computed_once(clip: Clip) -> None:
    runs = []
    clip.ln_final.register_forward_hook(lambda *_: runs.append(1))
    first = class_embeddings(clip, ["cat", "dog"], ["a {}."])
    expected = first.clone()
    first.zero_()
    assert torch.equal(class_embeddings(clip, ("cat", "dog"), ("a {}.",)), expected)
    assert len(runs) == 1
    class_embeddings(clip, ["dog", "cat"], ["a {}."])
    class_embeddings(clip, ["cat", "dog"], ["the {}."])
    assert len(runs) == 3


def test_other_weights_give_other_embeddings(clip: Clip) -> None:
    first = class_embeddings(clip, ["cat"])
    with torch.no_grad():
        clip.text_projection.add_(1)
    second = class_embeddings(clip, ["cat"])
    assert not torch.equal(second, first)
    clip.load_state_dict({name: 0.5 * weight for name, weight in clip.state_dict().items()})
    assert not torch.equal(class_embeddings(clip, ["cat"]), second)
    assert class_embeddings(clip.double(), ["cat"]).dtype == torch.float64
