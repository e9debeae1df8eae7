"""The grounder: from CLIP's frozen patch tokens to a text-aligned embedding at every fourth pixel (paper, Sec. 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tcl.model.clip import run_blocks, run_dense_blocks


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
        return x + torch.tanh(self.gate) * self.conv(F.gelu(self.norm(x)))


class DecoderLevel(nn.Module):
    """Nearest x2 upsampling, then two gated residual blocks: [B, C, h, w] -> [B, C, 2h, 2w].

    The first block's norm and GELU commute with the upsampling, and its convolution is taken on the small grid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = GatedResidual(channels)
        self.second = GatedResidual(channels)

    def forward(self, x: Tensor) -> Tensor:
        upsampled = F.interpolate(x, scale_factor=2, mode="nearest")
        update = upsampled_conv3x3(F.gelu(self.first.norm(x)), self.first.conv.weight, self.first.conv.bias)
        return self.second(upsampled + torch.tanh(self.first.gate) * update)


def upsampled_conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """conv3x3(nearest x2 upsampling of x) with zero padding, in 4/9 of the multiplications: [B, O, 2h, 2w].

    x: [B, C, h, w]; weight: [O, C, 3, 3]. Upsampling followed by the convolution is one transposed convolution of
    stride 2, whose 4x4 kernel holds the sums of the weights that meet the same pixel of x.
    """
    spread = weight.new_tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]])
    kernel = torch.einsum("ap,ocpq,bq->coab", spread, weight.flip(2, 3), spread)
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
            features = checkpoint(level, features, use_reentrant=False) if self.recompute else level(features)
        embeddings = self.norm(features.permute(0, 2, 3, 1)) @ self.projection
        return embeddings.permute(0, 3, 1, 2)
