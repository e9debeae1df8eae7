"""Pixel-adaptive mask refinement (PAMR): masks follow the image's local colour affinities (paper, Sec. 3.5)."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from tcl.model.fused import is_fused

CLASSES = 32
"""Masks that are refined at once: few enough to stay in a processor's cache through the iterations."""

COLUMNS = 8
"""Masks come to the sparse product in multiples of these: MKL takes a quarter longer for 21 columns than for 24."""


def _offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    """Rows and columns from a pixel to its eight neighbours at every dilation."""
    steps = (-1, 0, 1)
    return [(dy * d, dx * d) for d in dilations for dy in steps for dx in steps if (dy, dx) != (0, 0)]


@lru_cache(maxsize=16)
def _neighbours(height: int, width: int, dilations: tuple[int, ...]) -> Tensor:
    """Flat indices of each pixel's neighbours, replicate padding: int32 [hw, 8 * dilations]."""
    rows = torch.arange(height, dtype=torch.int32).view(-1, 1)
    columns = torch.arange(width, dtype=torch.int32).view(1, -1)
    indices = [
        (rows + dy).clamp(0, height - 1) * width + (columns + dx).clamp(0, width - 1) for dy, dx in _offsets(dilations)
    ]
    return torch.stack(indices, dim=-1).view(height * width, -1)


def affinity(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Affinity of each pixel to its neighbours, rows summing to 1: [hw, 8 * dilations].

    image: [3, h, w]. a = mean over channels of -|x_p - x_q| / (1e-8 + 0.1 * std), softmax over the neighbours; std is
    the unbiased deviation over the 9-neighbourhoods of all dilations together (54 values for six dilations). Those are
    taken as differences from the pixel, which is a ninth of them itself: their variance is at least a ninth of their
    mean square, so that float32 does.
    """
    neighbours = _neighbours(image.shape[1], image.shape[2], dilations).to(image.device)
    indices, count = neighbours.flatten(), 9 * len(dilations)
    similarity = image.new_zeros(neighbours.shape)
    for pixels in image.flatten(1):
        differences = pixels.index_select(0, indices).view_as(similarity).sub_(pixels[:, None])
        sums, squares = differences.sum(dim=1), torch.linalg.vector_norm(differences, dim=1).square_()
        variance = (squares - sums.square() / count).clamp_(min=0) / (count - 1)
        similarity.addcdiv_(differences.abs_(), (1e-8 + 0.1 * variance.sqrt())[:, None], value=-1 / 3)
    return similarity.softmax(dim=-1)


def transition(image: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """The affinity of an image [3, h, w] as one sparse matrix [hw, hw], fixed through the iterations."""
    weights = affinity(image, dilations)
    pixels, degree = weights.shape
    columns = _neighbours(image.shape[1], image.shape[2], dilations).to(image.device).flatten()
    rows = torch.arange(0, pixels * degree + 1, degree, device=image.device, dtype=torch.int32)
    with warnings.catch_warnings():  # torch calls CSR tensors a beta feature
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(rows, columns, weights.flatten(), size=(pixels, pixels))


def iterate(matrix: Tensor, masks: Tensor, iterations: int) -> Tensor:
    """Masks [N, h, w], each replaced `iterations` times by its neighbours' weighted sum: [N, h, w]."""
    refined = torch.empty_like(masks)
    for part, target in zip(masks.split(CLASSES), refined.split(CLASSES), strict=True):
        state = masks.new_zeros(matrix.shape[0], -(-len(part) // COLUMNS) * COLUMNS)
        state[:, : len(part)] = part.flatten(1).T
        after = torch.zeros_like(state)
        for _ in range(iterations):
            torch.addmm(after, matrix, state, beta=0, out=after)
            state, after = after, state
        target.copy_(state[:, : len(part)].T.view(part.shape))
    return refined


def on_grid(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images [B, 3, H, W] resized to the mask grid: [B, 3, *size] (bilinear, align_corners True)."""
    if (images.shape[2], images.shape[3]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


class Affinities(Protocol):
    """How alike each pixel of B images is to its neighbours, fixed through the iterations."""

    @property
    def nbytes(self) -> int: ...

    def refine(self, masks: Tensor, iterations: int) -> Tensor:
        """Masks [B, N, h, w], each replaced `iterations` times by its neighbours' weighted sum: [B, N, h, w].

        Summed in the images' precision, float32 at least; the result has the masks' own.
        """
        ...


class SparseAffinities:
    """Affinities of images [B, 3, h, w] as sparse matrices, for any device."""

    def __init__(self, images: Tensor, dilations: tuple[int, ...]) -> None:
        self.matrices = [transition(image, dilations) for image in images]

    @property
    def nbytes(self) -> int:
        return sum(matrix.values().nbytes + matrix.col_indices().nbytes for matrix in self.matrices)

    def refine(self, masks: Tensor, iterations: int) -> Tensor:
        """As `Affinities.refine` says."""
        pairs = zip(self.matrices, masks, strict=True)
        return torch.stack([iterate(matrix, mask.to(matrix.dtype), iterations) for matrix, mask in pairs]).to(masks)


@torch.no_grad()
def affinities(images: Tensor, dilations: tuple[int, ...]) -> Affinities:
    """Affinities of images [B, 3, h, w] of the mask grid's size: for fused kernels on a GPU, else sparse matrices."""
    precise = images if images.dtype == torch.float64 else images.float()
    if not is_fused(images.device):
        return SparseAffinities(precise, dilations)
    from tcl.inference.pamr_triton import FusedAffinities

    return FusedAffinities(precise, dilations)


@torch.no_grad()
def pamr(
    images: Tensor,
    masks: Tensor,
    *,
    iterations: int = 10,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
) -> Tensor:
    """Refine masks [B, N, h, w] by images [B, 3, H, W] (any affine scaling of pixel values): [B, N, h, w].

    The images are resized to the mask grid (bilinear, align_corners True). Values stay within the range of the masks.
    """
    return affinities(on_grid(images, (masks.shape[2], masks.shape[3])), tuple(dilations)).refine(masks, iterations)
