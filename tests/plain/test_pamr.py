"""The sparse PAMR, or on a GPU the fused one, equals the dense one."""

import pytest
import torch
from torch.testing import assert_close

from tcl.inference.pamr import pamr

from .pamr import Neighbours, by_convolutions, by_slices
from .pamr import pamr as plain_pamr


@pytest.mark.parametrize("neighbours", [by_convolutions, by_slices])
@pytest.mark.parametrize(
    ("images", "masks", "dilations"),
    [
        ((2, 3, 40, 56), (2, 5, 20, 28), (1, 2, 4)),
        ((1, 3, 112, 112), (1, 3, 28, 28), (1, 2, 4, 8, 12, 24)),
        ((1, 3, 20, 28), (1, 1, 20, 28), (1, 2, 4)),
        ((1, 3, 72, 80), (1, 130, 72, 80), (1, 3)),  # more masks than are taken at once
    ],
)
def test_pamr(
    images: tuple[int, ...],
    masks: tuple[int, ...],
    dilations: tuple[int, ...],
    neighbours: Neighbours,
    device: torch.device,
) -> None:
    generator = torch.Generator().manual_seed(0)
    picture, soft = torch.rand(images, generator=generator), torch.rand(masks, generator=generator)
    expected = plain_pamr(picture, soft, iterations=10, dilations=dilations, neighbours=neighbours)
    given = soft.to(device, copy=True)
    found = pamr(picture.to(device), given, iterations=10, dilations=dilations)
    assert_close(found.cpu(), expected, rtol=0, atol=1e-5)
    assert torch.equal(given.cpu(), soft)


def test_an_image_of_hardly_any_contrast_and_one_of_lone_bright_pixels() -> None:
    """Where sums of squares in float32 would leave nothing of the deviation, and where they are largest beside it."""
    generator = torch.Generator().manual_seed(0)
    pale = 1.37 + 1e-6 * torch.randn(1, 3, 32, 32, generator=generator)
    spiked = torch.full((1, 3, 32, 32), -0.8)
    spiked[..., ::9, ::11] = 2.64
    masks = torch.rand(1, 4, 32, 32, generator=generator)
    for picture in (pale, spiked):
        expected = plain_pamr(picture.double(), masks.double(), iterations=10, dilations=(1, 2, 4, 8))
        found = pamr(picture, masks, dilations=(1, 2, 4, 8))
        assert_close(found.double(), expected, rtol=0, atol=1e-5)
