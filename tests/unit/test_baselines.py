"""The training-free methods against their definitions, written out one head and one image at a time."""

import math

import pytest
import torch
from torch import Tensor

from tcl.errors import TCLError
from tcl.inference.baselines import METHODS, TrainingFree, block_states, neighbourhood
from tcl.inference.masks import soft_masks
from tcl.inference.settings import InferenceSettings
from tcl.model.clip import Block, Clip, ClipSizes, build_clip, embed_patches

SIZES = ClipSizes(
    embed_dim=16,
    image_size=32,
    patch_size=8,
    vision_width=32,
    vision_layers=3,
    vision_heads=2,
    context_length=8,
    vocab_size=49408,
    text_width=16,
    text_layers=1,
    text_heads=1,
)
GRID = (3, 5)


@pytest.fixture(scope="module")
def tiny_clip() -> Clip:
    torch.manual_seed(0)
    clip = build_clip(SIZES).eval().double()
    for parameter in clip.visual.transformer.parameters():  # far from open_clip's timid start
        torch.nn.init.normal_(parameter, std=0.3)
    return clip.requires_grad_(False)


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 8 * GRID[0], 8 * GRID[1], generator=generator, dtype=torch.float64)


def states_of(clip: Clip, images: Tensor) -> tuple[list[Block], list[Tensor]]:
    blocks = list(clip.visual.transformer.resblocks)
    return blocks, block_states(blocks, embed_patches(clip.visual, images))


def heads_of(block: Block, tokens: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Query, key and value of each head for one image's tokens [L, C]."""
    normed = block.ln_1(tokens)
    weight, bias, width = block.attn.in_proj_weight, block.attn.in_proj_bias, tokens.shape[1]
    q, k, v = (normed @ weight[i * width : (i + 1) * width].T + bias[i * width : (i + 1) * width] for i in range(3))
    d = width // block.attn.num_heads
    parts = [slice(h * d, (h + 1) * d) for h in range(block.attn.num_heads)]
    return [(q[:, part], k[:, part], v[:, part]) for part in parts]


def gaussian() -> Tensor:
    matrix = torch.zeros(16, 16, dtype=torch.float64)
    for p in range(15):
        for q in range(15):
            distance = (p // 5 - q // 5) ** 2 + (p % 5 - q % 5) ** 2
            matrix[1 + p, 1 + q] = math.exp(-distance / 50)
    return matrix


def one_head(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q.shape[1] ** -0.5
    matrices = {
        "sclip": lambda: (s * q @ q.T).softmax(1) + (s * k @ k.T).softmax(1),
        "naclip": lambda: (s * k @ k.T + gaussian()).softmax(1),
        "clearclip": lambda: (s * q @ q.T).softmax(1),
        "maskclip": lambda: torch.eye(len(q), dtype=q.dtype),
    }
    return matrices[name]() @ v


@pytest.mark.parametrize("name", ["maskclip", "sclip", "naclip", "clearclip"])
def test_the_last_block_is_what_the_method_says(name: str, tiny_clip: Clip, images: Tensor) -> None:
    blocks, states = states_of(tiny_clip, images)
    found = METHODS[name](blocks, states, GRID)
    for image, tokens in enumerate(states[-2]):
        attended = torch.cat([one_head(name, *head) for head in heads_of(blocks[-1], tokens)], dim=1)
        expected = blocks[-1].attn.out_proj(attended)
        if name in ("maskclip", "sclip"):
            expected = tokens + expected
            expected = expected + blocks[-1].mlp(blocks[-1].ln_2(expected))
        torch.testing.assert_close(found[image], expected)


def test_gem_adds_up_the_self_self_attention_of_its_blocks(tiny_clip: Clip, images: Tensor) -> None:
    blocks, states = states_of(tiny_clip, images)
    found = METHODS["gem"](blocks, states, GRID)
    for image in range(len(images)):
        expected = states[0][image]
        for block, own in zip(blocks, states, strict=False):
            temperature = block.ln_1(own[image]).norm(dim=1).mean()
            heads = []
            for q, k, v in heads_of(block, own[image]):
                temper, paths = temperature * q.shape[1] ** -0.5, []
                for x in (q, k, v):
                    unit = x / x.norm(dim=1, keepdim=True)
                    moved = (temper * unit @ unit.T).softmax(1) @ unit
                    unit = moved / moved.norm(dim=1, keepdim=True)
                    paths.append((temper * unit @ unit.T).softmax(1) @ v)
                heads.append(sum(paths) / 3)
            expected = expected + block.attn.out_proj(torch.cat(heads, dim=1))
        torch.testing.assert_close(found[image], expected)


def test_clip_reads_the_tokens_of_open_clip_itself(tiny_clip: Clip) -> None:
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    blocks, states = states_of(tiny_clip, image)
    pooled = tiny_clip.visual.ln_post(METHODS["clip"](blocks, states, (4, 4))[:, 0]) @ tiny_clip.visual.proj
    torch.testing.assert_close(pooled, tiny_clip.encode_image(image))


def test_the_neighbourhood_leaves_the_class_token_alone() -> None:
    matrix = neighbourhood(GRID)
    assert matrix[0].sum() == matrix[:, 0].sum() == 0
    torch.testing.assert_close(matrix.double(), gaussian(), atol=1e-6, rtol=1e-6)


def test_methods_together_are_the_methods_alone(tiny_clip: Clip, images: Tensor) -> None:
    settings = InferenceSettings(pamr_dilations=(1, 2))
    embeddings = torch.nn.functional.normalize(torch.randn(3, 16, dtype=torch.float64), dim=1)

    def masks(methods: list[str]) -> Tensor:
        return soft_masks(TrainingFree(tiny_clip, methods, settings, levels=2), images[..., :-3], embeddings, settings)

    together = masks(list(METHODS))
    assert together.shape == (2, 3 * len(METHODS), 24, 37)
    for index, name in enumerate(METHODS):
        torch.testing.assert_close(together[:, 3 * index : 3 * index + 3], masks([name]))


def test_an_unknown_method_is_named(tiny_clip: Clip) -> None:
    with pytest.raises(TCLError, match=r"baselines.methods: nacllip is not known\. There are: clip, maskclip"):
        TrainingFree(tiny_clip, ["nacllip"], InferenceSettings(), levels=2)
