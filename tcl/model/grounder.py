"""The grounder: from CLIP's frozen patch tokens to a text-aligned embedding at every fourth pixel (paper, Sec. 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl.model import winograd
from tcl.model.clip import run_blocks, run_dense_blocks
from tcl.model.recompute import recomputed, recomputed_if_large


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w], eps 1e-5."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GatedResidual(nn.Module):
    """x + tanh(gate) * conv3x3(GELU(LayerNorm2d(x))); the gate starts at 0, so the block starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if winograd.worthwhile(x):
            return self.in_few_products(x, winograd.PLAIN)
        return x + recomputed_if_large(self.update, x)

    def in_few_products(self, x: Tensor, form: winograd.Form) -> Tensor:
        """The block's result for x or, if `form` says so, for its upsampling."""
        return winograd.residual(form, self.activation, self.gated_weights, x, self.parameters())

    def forward_(self, x: Tensor) -> Tensor:
        """The block's result, written over x where that saves memory: x is of no use afterwards."""
        if torch.is_grad_enabled() or not winograd.worthwhile(x):
            return self(x)
        return winograd.add_residual_(self.activation, self.gated_weights, x)

    def update(self, x: Tensor) -> Tensor:
        """What is added to x; the gate, a number, is applied to the weights."""
        return F.conv2d(self.activation(x), *self.gated_weights(), padding=1)

    def activation(self, x: Tensor) -> Tensor:
        """What the convolution is given."""
        return F.gelu(self.norm(x))

    def gated_weights(self) -> tuple[Tensor, Tensor]:
        """The convolution's weight and bias, times tanh(gate)."""
        weight, bias = (torch.tanh(self.gate) * parameter for parameter in self.conv.parameters())
        return weight, bias


class DecoderLevel(nn.Module):
    """Nearest x2 upsampling, then two gated residual blocks: [B, C, h, w] -> [B, C, 2h, 2w].

    The first block's norm and GELU commute with the upsampling, and its convolution is taken on the small grid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = GatedResidual(channels)
        self.second = GatedResidual(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.second.forward_(self.enlarged(x))

    def enlarged(self, x: Tensor) -> Tensor:
        """What the first block makes of the upsampled x: [B, C, h, w] -> [B, C, 2h, 2w]."""
        if winograd.worthwhile(x):
            return self.first.in_few_products(x, winograd.UPSAMPLED)
        return recomputed_if_large(self.first_update, x) + F.interpolate(x, scale_factor=2, mode="nearest")

    def first_update(self, x: Tensor) -> Tensor:
        """What the first block adds to the upsampled x: [B, C, h, w] -> [B, C, 2h, 2w]."""
        if x.is_cuda and not torch.is_grad_enabled():  # a few windows take less time than the kernel's sums
            return self.first.update(F.interpolate(x, scale_factor=2, mode="nearest"))
        return upsampled_conv3x3(self.first.activation(x), *self.first.gated_weights())


def upsampled_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv3x3(nearest x2 upsampling of x) with zero padding, in 4/9 of the multiplications: [B, O, 2h, 2w].

    x: [B, C, h, w]; weight: [O, C, 3, 3]. Upsampling followed by the convolution is one transposed convolution of
    stride 2, whose 4x4 kernel holds the sums of the weights that meet the same pixel of x.
    """
    kernel = weight.flip(2, 3).transpose(0, 1)
    kernel = F.pad(kernel, (0, 1)) + F.pad(kernel, (1, 0))
    kernel = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


class Grounder(nn.Module):
    """Copies of CLIP's last blocks, a convolutional decoder and a per-pixel copy of CLIP's projection.

    blocks: the copied blocks; the last one runs with identity attention, any before it as usual. ordinary_attention: an
    ablation in which the last one runs as usual too.
    levels: each doubles the grid. norm, projection: copies of CLIP's `ln_post` and `proj`.
    recompute: in the backward pass, make the levels' activations again instead of keeping them.
    """

    recompute = False

    def __init__(
        self,
        blocks: nn.ModuleList,
        *,
        levels: nn.ModuleList,
        norm: nn.LayerNorm,
        projection: nn.Parameter,
        ordinary_attention: bool = False,
    ) -> None:
        super().__init__()
        self.blocks = blocks
        self.levels = levels
        self.norm = norm
        self.projection = projection
        self.ordinary_attention = ordinary_attention

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens [B, 1 + gh*gw, C] of the frozen trunk -> embeddings V [B, D, h, w], not normalised."""
        run = run_blocks if self.ordinary_attention else run_dense_blocks
        tokens = run(self.blocks, tokens)
        features = tokens[:, 1:].transpose(1, 2).unflatten(2, grid)
        for level in self.levels:
            features = recomputed(level, features) if self.recompute else level(features)
        return recomputed_if_large(self.project, features)

    def project(self, features: Tensor) -> Tensor:
        """Per-pixel embeddings [B, D, h, w] of the decoder's result [B, C, h, w]."""
        embeddings: Tensor = self.norm(features.permute(0, 2, 3, 1)) @ self.projection
        return embeddings.permute(0, 3, 1, 2)
