"""What the model sees in a few training images while it learns: each image beside the mask of its own caption."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tcl.model.losses import normalise
from tcl.model.tcl import TCL
from tcl.training.data import MEAN, STD

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE, GAP, CAPTION = 160, 6, 48
"""Pixels of an image's side, of the space between two, and of the caption's height."""


@torch.no_grad()
def mask_picture(model: TCL, images: Tensor, tokens: Tensor, captions: Sequence[str]) -> Image:
    """Images above their soft masks M_ii, white 1 and black 0, with their captions below, as one RGB picture.

    images: [B, 3, H, W], normalised; tokens: [B, context].
    """
    from PIL import Image, ImageDraw, ImageFont

    texts = normalise(model.text_features(tokens))
    masks = torch.sigmoid(model.mask_logits(model.features(images), texts)).diagonal(dim1=0, dim2=1).permute(2, 0, 1)
    pixels = images * images.new_tensor(STD).view(3, 1, 1) + images.new_tensor(MEAN).view(3, 1, 1)
    columns = zip(_as_rgb(pixels), _as_rgb(masks[:, None].expand(-1, 3, -1, -1)), captions, strict=True)
    picture = Image.new("RGB", (len(images) * (SIDE + GAP) - GAP, 2 * SIDE + GAP + CAPTION), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(11)
    for index, (image, mask, caption) in enumerate(columns):
        left = index * (SIDE + GAP)
        picture.paste(Image.fromarray(image), (left, 0))
        picture.paste(Image.fromarray(mask), (left, SIDE + GAP))
        lines = textwrap.wrap(caption, 28, max_lines=3, placeholder=" ...")
        draw.text((left + 2, 2 * SIDE + GAP + 2), "\n".join(lines), fill="black", font=font)
    return picture


def _as_rgb(values: Tensor) -> np.ndarray:
    """[B, 3, h, w] in [0, 1] -> uint8 [B, SIDE, SIDE, 3]."""
    resized = F.interpolate(values.float(), size=(SIDE, SIDE), mode="nearest").clamp(0, 1)
    return (resized * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
