"""What the model sees in a picture, kept: new words, thresholds and refinement need no tower again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from tcl.inference.masks import TCLSegmenter, WindowFeatures, cosine_maps, knowledge_preserving_masks, resize
from tcl.inference.pamr import Affinities, affinities, on_grid
from tcl.inference.settings import InferenceSettings
from tcl.inference.slide import model_input
from tcl.model.fused import is_fused
from tcl.segmenter.blend import Blend, Window, blend_windows, window_grid
from tcl.segmenter.source import Picture

Method: TypeAlias = Literal["tcl", "maskclip"]


@dataclass(frozen=True)
class Query:
    """What is asked of a picture's features.

    embeddings: [M, D] of all names; owners: [M], the label that each name belongs to, labels counted from 0. method:
    TCL, or the frozen CLIP that it stands on. kp_w: share of the CLIP's map in TCL's masks.
    """

    embeddings: Tensor
    owners: Tensor
    method: Method
    pamr: bool
    kp_w: float
    blend: Blend

    @property
    def count(self) -> int:
        """Number of labels."""
        return int(self.owners.max()) + 1

    def merge(self, maps: Tensor) -> Tensor:
        """Maps [1, M, h, w] of names -> [1, N, h, w] of labels: the best name of each counts, pixel by pixel."""
        if len(self.owners) == self.count:
            return maps
        merged = maps.new_full((1, self.count, *maps.shape[2:]), -torch.inf)
        index = self.owners.to(maps.device)[None, :, None, None].expand_as(maps)
        return merged.scatter_reduce(1, index, maps, "amax")


class PictureFeatures:
    """A picture and all that its masks need of the model, window by window."""

    def __init__(self, model: TCLSegmenter, picture: Picture, settings: InferenceSettings) -> None:
        """Run the towers on a picture, one window at a time."""
        self.model, self.picture, self.settings = model, picture, settings
        image = model_input(picture.pixels[:, :, ::-1], settings, model.mask_scale.device)
        self.size = (image.shape[2], image.shape[3])
        self.windows = window_grid(*self.size, settings)
        self.features = [
            model.window_features(
                image[:, :, w.top : w.top + w.height, w.left : w.left + w.width].contiguous(), maskclip=True
            )
            for w in self.windows
        ]

    @property
    def bytes(self) -> int:
        """Memory that this takes, PAMR's affinities included."""
        degree = 8 * len(self.settings.pamr_dilations)
        held = self.picture.pixels.nbytes
        for each in self.features:
            held += sum(t.nbytes for t in (each.images, each.dense, each.maskclip) if t is not None)
            neighbours = each.dense[0, 0].numel() * degree
            held += neighbours * (4 if is_fused(each.dense.device) else 8)  # a float32, and an int32 in sparse matrices
        return held

    @cached_property
    def affinities(self) -> list[Affinities]:
        """PAMR's affinities of each window, from its colours alone."""
        return [affinities(on_grid(each.images, _grid(each)), self.settings.pamr_dilations) for each in self.features]

    @torch.no_grad()
    def soft_masks(self, query: Query) -> Tensor:
        """Soft masks [N, h, w] in [0, 1] at the size at which the model sees the picture."""
        return blend_windows(
            self._window_masks(query),
            count=query.count,
            size=self.size,
            overlap=self.settings.window - self.settings.stride,
            blend=query.blend,
            device=self.model.mask_scale.device,
        )

    def _window_masks(self, query: Query) -> Iterator[tuple[Window, Tensor]]:
        for index, (window, features) in enumerate(zip(self.windows, self.features, strict=True)):
            masks = self._tcl(features, query) if query.method == "tcl" else self._maskclip(features, query)
            if query.pamr:
                masks = self.affinities[index].refine(masks, self.settings.pamr_iterations)
            if query.method == "tcl" and query.kp_w:
                masks = query.kp_w * self._maskclip(features, query) + (1 - query.kp_w) * masks
            padded = (features.images.shape[2], features.images.shape[3])
            yield window, resize(masks, padded)[features.inside][0]

    def _tcl(self, features: WindowFeatures, query: Query) -> Tensor:
        return torch.sigmoid(query.merge(self.model.mask_logits(features.dense, query.embeddings)))

    def _maskclip(self, features: WindowFeatures, query: Query) -> Tensor:
        assert features.maskclip is not None
        maps = query.merge(cosine_maps(features.maskclip, query.embeddings))
        return resize(knowledge_preserving_masks(maps), _grid(features))


def _grid(features: WindowFeatures) -> tuple[int, int]:
    return features.dense.shape[2], features.dense.shape[3]


class FeatureCache:
    """The features of the pictures that were used last, within a bound on memory; the newest is always kept."""

    def __init__(self, model: TCLSegmenter, settings: InferenceSettings, *, bound: int) -> None:
        self.model, self.settings, self.bound = model, settings, bound
        self._kept: OrderedDict[bytes, PictureFeatures] = OrderedDict()

    def of(self, picture: Picture) -> PictureFeatures:
        """The features of a picture; the towers run only if no picture of the same pixels is kept."""
        key = hashlib.blake2b(picture.pixels.data, key=str(picture.pixels.shape).encode()).digest()
        found = self._kept.pop(key, None) or PictureFeatures(self.model, picture, self.settings)
        self._kept[key] = found
        while len(self._kept) > 1 and sum(each.bytes for each in self._kept.values()) > self.bound:
            self._kept.popitem(last=False)
        return found
