"""Soft masks of windows: padding, refinement and resizing around a model's mask grid (paper, Sec. 3.5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcl.inference.pamr import Affinities, affinities, on_grid
from tcl.inference.prompts import class_embeddings
from tcl.inference.settings import InferenceSettings
from tcl.model.clip import Clip, dense_embeddings, patch_grid, run_dense_blocks
from tcl.model.losses import normalise
from tcl.model.tcl import TCL


class SegmentationModel(Protocol):
    """What segmentation needs of a model: TCL itself, or a training-free method on the frozen CLIP."""

    settings: InferenceSettings

    def class_embeddings(self, names: list[str], templates: str = "custom") -> Tensor: ...

    def window_features(self, images: Tensor, *, maskclip: bool) -> WindowFeatures: ...

    def grid_masks(self, features: WindowFeatures, embeddings: Tensor) -> Tensor:
        """Soft masks [B, C, h, w] on the mask grid, not yet refined; C: one an embedding, or one each and method."""
        ...


def pad_to_multiple(images: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, ...]]:
    """Zero-pad [B, 3, H, W] to multiples of `multiple`; left and top get the smaller half.

    Returns the padded images and the index of the originals in them.
    """
    height, width = images.shape[2:]
    extra_h, extra_w = -height % multiple, -width % multiple
    top, left = extra_h // 2, extra_w // 2
    padded = F.pad(images, (left, extra_w - left, top, extra_h - top))
    inside = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
    return padded, inside


def resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, align_corners False: [B, N, h, w] -> [B, N, *size], contiguous.

    Products leave the masks of a pixel side by side, in which order resizing and adding up take three times as long.
    """
    return F.interpolate(masks.contiguous(), size=size, mode="bilinear", align_corners=False)


def maskclip_features(clip: Clip, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """MaskCLIP's [B, D, gh, gw], of length 1, from tokens behind CLIP's last block, with identity attention there."""
    return normalise(dense_embeddings(clip.visual, tokens, grid), dim=1)


def cosine_maps(features: Tensor, embeddings: Tensor) -> Tensor:
    """Cosines [B, N, h, w] of features [B, D, h, w] and embeddings [N, D], both of length 1."""
    return torch.einsum("bdhw,nd->bnhw", features, embeddings)


class WindowFeatures(NamedTuple):
    """All that masks of one batch of windows need of the images; no word changes it.

    images: [B, 3, H, W], normalised, padded to the patch size. inside: where in them the windows lie. dense: of TCL, V
    [B, D, h, w], not normalised. maskclip: CLIP's own [B, D, gh, gw] of length 1, or None where it was not asked for.
    """

    images: Tensor
    inside: tuple[slice, ...]
    dense: Tensor
    maskclip: Tensor | None


def knowledge_preserving_masks(cosines: Tensor) -> Tensor:
    """CLIP cosines -> soft masks in [0, 1]: sigmoid(10 * (cos - 0.25))."""
    return torch.sigmoid(10 * (cosines - 0.25))


class TCLSegmenter(TCL):
    """A TCL with its inference: class embeddings from names, soft masks from images."""

    settings = InferenceSettings()

    def class_embeddings(self, names: list[str], templates: str | list[str] = "custom") -> Tensor:
        """Embeddings [N, D] of class names, of length 1; templates: a set's official name, or a list of one's own."""
        return class_embeddings(self.clip, names, templates)

    @torch.no_grad()
    def soft_masks(self, images: Tensor, embeddings: Tensor, pamr: bool = True, kp_w: float = 0.3) -> Tensor:
        """Soft masks [B, N, H, W] in [0, 1]; images: [B, 3, H, W], normalised, of any size; embeddings: [N, D].

        kp_w: share of the frozen MaskCLIP map in the result (the paper's knowledge-preserving mix), in [0, 1].
        """
        return soft_masks(self, images, embeddings, replace(self.settings, pamr=pamr, kp_w=kp_w))

    @torch.no_grad()
    def window_features(self, images: Tensor, *, maskclip: bool) -> WindowFeatures:
        """Run the image tower and the grounder on [B, 3, H, W], normalised, any size; maskclip: CLIP's own map too."""
        padded, inside = pad_to_multiple(images, self.patch_size)
        grid = patch_grid(self.clip.visual, padded)
        tokens = self.frozen_tokens(padded)
        own = None
        if maskclip:
            last = run_dense_blocks(self.clip.visual.transformer.resblocks[len(self.trunk) :], tokens)
            own = maskclip_features(self.clip, last, grid)
        return WindowFeatures(padded, inside, self.grounder(tokens, grid), own)

    def grid_masks(self, features: WindowFeatures, embeddings: Tensor) -> Tensor:
        """Soft masks [B, N, h, w] on the mask grid, not yet refined."""
        return torch.sigmoid(self.mask_logits(features.dense, normalise(embeddings)))


def _product_weights(model: nn.Module) -> Iterator[Tensor]:
    """What windows are only multiplied by or convolved with, so that autocast would cast it for each batch of them."""
    for name, module in model.named_modules():
        multiplies = isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention))
        if multiplies and name.startswith(("clip.visual.", "grounder.blocks.")):
            yield from module.parameters(recurse=False)
    yield from (each for name, each in model.named_parameters() if name in ("clip.visual.proj", "grounder.projection"))


def with_bfloat16_weights(model: nn.Module) -> nn.Module:
    """A copy of a model that shares its memory but for the weights of the image tower's products, in bfloat16.

    They take 2 bytes each beside the model's 4, 187 MB for ViT-B/16. The model itself stays as it is.
    """
    kept = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    halved = {id(weight): nn.Parameter(weight.bfloat16(), False) for weight in _product_weights(model)}
    return copy.deepcopy(model, {**kept, **halved})


class InBfloat16:
    """A model whose towers and decoder compute in bfloat16; masks, refinement and label maps stay float32."""

    def __init__(self, model: SegmentationModel) -> None:
        self.model, self.settings = model, model.settings
        self._half: Any = with_bfloat16_weights(model) if isinstance(model, nn.Module) else model

    def class_embeddings(self, names: list[str], templates: str = "custom") -> Tensor:
        return self.model.class_embeddings(names, templates)

    def window_features(self, images: Tensor, *, maskclip: bool) -> WindowFeatures:
        with torch.autocast(images.device.type, torch.bfloat16):
            found: WindowFeatures = self._half.window_features(images, maskclip=maskclip)
        own = None if found.maskclip is None else found.maskclip.float()
        return found._replace(dense=found.dense.float(), maskclip=own)

    def grid_masks(self, features: WindowFeatures, embeddings: Tensor) -> Tensor:
        return self.model.grid_masks(features, embeddings)


class WindowMasks:
    """Masks of one batch of windows under any settings of templates, PAMR and KP; what they share is made once.

    size: of the padded windows; inside: where in them the windows lie; count: of masks, C.
    """

    def __init__(
        self, model: SegmentationModel, images: Tensor, embeddings: Mapping[str, Tensor], *, maskclip: bool
    ) -> None:
        """Run the towers on windows [B, 3, H, W]; embeddings: by the settings' templates; maskclip: for kp_w > 0."""
        features = model.window_features(images, maskclip=maskclip)
        self.size = (features.images.shape[2], features.images.shape[3])
        self.inside = features.inside
        self._masks = {name: model.grid_masks(features, each) for name, each in embeddings.items()}
        self.count, *grid = next(iter(self._masks.values())).shape[1:]
        self._grid = (grid[0], grid[1])
        self._images = on_grid(features.images, self._grid)
        self._priors: dict[str, Tensor] = {}
        if features.maskclip is not None:
            cosines = {name: cosine_maps(features.maskclip, normalise(each)) for name, each in embeddings.items()}
            self._priors = {name: knowledge_preserving_masks(each) for name, each in cosines.items()}
        self._affinities: dict[tuple[int, ...], Affinities] = {}
        self._refined: dict[tuple[str, tuple[int, ...]], tuple[int, Tensor]] = {}

    def on_grid(self, settings: InferenceSettings, channels: slice = slice(None)) -> Tensor:
        """Soft masks [B, c, h, w] of some channels on the mask grid, refined and mixed as the settings say."""
        masks = self._refine(settings) if settings.pamr else self._masks[settings.templates]
        masks = masks[:, channels]
        if settings.kp_w > 0 and self._priors:
            prior = resize(self._priors[settings.templates][:, channels], self._grid)
            masks = settings.kp_w * prior + (1 - settings.kp_w) * masks
        return masks

    def _refine(self, settings: InferenceSettings) -> Tensor:
        """PAMR, which goes on from fewer iterations if these were asked for before."""
        dilations = tuple(settings.pamr_dilations)
        if dilations not in self._affinities:
            self._affinities[dilations] = affinities(self._images, dilations)
        done, masks = self._refined.get((settings.templates, dilations), (0, self._masks[settings.templates]))
        if done > settings.pamr_iterations:
            done, masks = 0, self._masks[settings.templates]
        left = settings.pamr_iterations - done
        if left:
            masks = self._affinities[dilations].refine(masks, left)
            self._refined[settings.templates, dilations] = (settings.pamr_iterations, masks)
        return masks


@torch.no_grad()
def soft_masks(model: SegmentationModel, images: Tensor, embeddings: Tensor, settings: InferenceSettings) -> Tensor:
    """Soft masks [B, C, H, W] in [0, 1] of images [B, 3, H, W], normalised, of any size; embeddings: [N, D]."""
    masks = WindowMasks(model, images, {settings.templates: embeddings}, maskclip=settings.kp_w > 0)
    return resize(masks.on_grid(settings), masks.size)[masks.inside]
