"""What holds of soft masks whatever the image, the words and the options."""

from functools import cache

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad
from torch.testing import assert_close

from tcl.inference.masks import TCLSegmenter
from tcl.model.build import TCLSizes

from .conftest import SMALL, model_of, random_weights

PATCH, WIDTH = SMALL.patch_size, SMALL.embed_dim
ROUNDING = 1e-5


@cache
def model() -> TCLSegmenter:
    return model_of(random_weights(TCLSizes(SMALL, frozen_blocks=2, decoder_levels=2)))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


options = settings(deadline=None, max_examples=20, derandomize=True)
seeds, counts = st.integers(0, 10_000), st.integers(1, 4)
sides = st.tuples(st.integers(1, 45), st.integers(1, 45))
refined, shares = st.booleans(), st.sampled_from((0.0, 0.3, 1.0))


@options
@given(seeds, sides, counts, counts, refined, shares)
def test_masks_are_shares_of_the_images_size(
    seed: int, size: tuple[int, int], batch: int, words: int, pamr: bool, kp_w: float
) -> None:
    masks = model().soft_masks(3 * draw(seed, batch, 3, *size), draw(seed + 1, words, WIDTH), pamr, kp_w)
    assert masks.shape == (batch, words, *size)
    assert torch.isfinite(masks).all()
    assert masks.min() >= -ROUNDING
    assert masks.max() <= 1 + ROUNDING


@options
@given(seeds, sides, refined, shares)
def test_padding_moves_no_mask(seed: int, size: tuple[int, int], pamr: bool, kp_w: float) -> None:
    image, words = draw(seed, 1, 3, *size), draw(seed + 1, 3, WIDTH)
    rows, columns = (-side % PATCH for side in size)
    top, left = rows // 2, columns // 2
    whole = model().soft_masks(pad(image, (left, columns - left, top, rows - top)), words, pamr, kp_w)
    inside = whole[:, :, top : top + size[0], left : left + size[1]]
    assert_close(model().soft_masks(image, words, pamr, kp_w), inside, rtol=0, atol=ROUNDING)


@options
@given(seeds, sides, st.permutations(range(4)), refined, shares)
def test_the_order_of_words_is_the_order_of_masks(
    seed: int, size: tuple[int, int], order: list[int], pamr: bool, kp_w: float
) -> None:
    image, words = draw(seed, 1, 3, *size), draw(seed + 1, 4, WIDTH)
    masks = model().soft_masks(image, words, pamr, kp_w)
    assert_close(model().soft_masks(image, words[order], pamr, kp_w), masks[:, order], rtol=0, atol=ROUNDING)
    alone = model().soft_masks(image, words[:1], pamr, kp_w)
    assert_close(alone, masks[:, :1], rtol=0, atol=ROUNDING)


@options
@given(seeds, sides, st.integers(2, 4), refined, shares)
def test_a_batch_is_its_images_one_by_one(
    seed: int, size: tuple[int, int], batch: int, pamr: bool, kp_w: float
) -> None:
    images, words = draw(seed, batch, 3, *size), draw(seed + 1, 2, WIDTH)
    one_by_one = torch.cat([model().soft_masks(image[None], words, pamr, kp_w) for image in images])
    assert_close(model().soft_masks(images, words, pamr, kp_w), one_by_one, rtol=0, atol=ROUNDING)


@options
@given(seeds, sides, shares)
def test_only_the_direction_of_embeddings_counts(seed: int, size: tuple[int, int], kp_w: float) -> None:
    image, words = draw(seed, 1, 3, *size), draw(seed + 1, 2, WIDTH)
    assert_close(model().soft_masks(image, 7 * words, True, kp_w), model().soft_masks(image, words, True, kp_w))
