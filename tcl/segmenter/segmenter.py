"""`tcl.Segmenter`: pictures and words in, masks out."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor

from tcl.errors import TCLError
from tcl.inference.load import load
from tcl.inference.masks import TCLSegmenter
from tcl.inference.settings import InferenceSettings
from tcl.segmenter.blend import Blend
from tcl.segmenter.checkpoints import CACHE, find_checkpoint
from tcl.segmenter.features import FeatureCache, Method, PictureFeatures, Query
from tcl.segmenter.result import Seconds, Segmentation, segmentation
from tcl.segmenter.source import MAX_PIXELS, Source, read_picture
from tcl.segmenter.words import Label, parse_labels

MASKCLIP_BACKGROUND = 0.5
"""Threshold of the frozen CLIP's own maps under background="auto": the middle of their sigmoid."""

KEPT_WORDS = 10_000
"""Embeddings that a segmenter keeps; older ones are computed again."""


class Segmenter:
    """A TCL ready for use on any picture, with the inference settings of its checkpoint.

    Features of a picture are computed once and kept for the next words, within `cache_bytes`; word embeddings too.
    The same picture and words give the same bytes, from the cache or not. One thread at a time uses the model; calls
    from several wait for each other.
    """

    def __init__(
        self,
        model: TCLSegmenter,
        *,
        device: str = "auto",
        settings: InferenceSettings | None = None,
        cache_bytes: int = 512 * 2**20,
    ) -> None:
        """Take a loaded model; settings: instead of those that it carries. device: "auto" takes a GPU if there is one.

        Raises TCLError if the device does not exist.
        """
        self.model = model.to(_device(device)).eval()
        self.settings = settings or model.settings
        self._cache = FeatureCache(self.model, self.settings, bound=cache_bytes)
        self._embeddings: dict[str, Tensor] = {}
        self._lock = threading.Lock()

    @classmethod
    def from_checkpoint(
        cls,
        path_or_name: str | Path | None = None,
        *,
        device: str = "auto",
        folder: str | Path = CACHE,
        cache_bytes: int = 512 * 2**20,
    ) -> Segmenter:
        """The segmenter of a checkpoint.

        path_or_name: a file, of ours or in the authors' layout; the name of a trained variant in weights/, such as
        "tcl"; "official", the authors' checkpoint, fetched into `folder` on first use; None takes weights/tcl.

        Raises TCLError if there is no such checkpoint, it cannot be fetched, or it is damaged.
        """
        file = find_checkpoint(path_or_name, folder=Path(folder))
        return cls(load(file), device=device, cache_bytes=cache_bytes)

    @overload
    def __call__(
        self,
        image: Source,
        words: str | Sequence[str],
        *,
        negative: str | Sequence[str] = (),
        background: float | Literal["auto"] | None = "auto",
        pamr: bool | None = None,
        kp_w: float | None = None,
        method: Method = "tcl",
        blend: Blend = "feathered",
        max_side: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Segmentation: ...

    @overload
    def __call__(
        self,
        image: list[Any] | tuple[Any, ...],
        words: str | Sequence[str],
        *,
        negative: str | Sequence[str] = (),
        background: float | Literal["auto"] | None = "auto",
        pamr: bool | None = None,
        kp_w: float | None = None,
        method: Method = "tcl",
        blend: Blend = "feathered",
        max_side: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> list[Segmentation]: ...

    def __call__(
        self,
        image: Source | list[Any] | tuple[Any, ...],
        words: str | Sequence[str],
        *,
        negative: str | Sequence[str] = (),
        background: float | Literal["auto"] | None = "auto",
        pamr: bool | None = None,
        kp_w: float | None = None,
        method: Method = "tcl",
        blend: Blend = "feathered",
        max_side: int | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> Segmentation | list[Segmentation]:
        """Segment a picture, or each of a list of pictures, by words.

        image: any source that `read_picture` takes, of any size. words: what to find; "sofa, couch" is one label with
        two names, of which the better counts at each pixel. negative: what not to confuse it with; where a negative
        prompt scores higher than a word, the word's mask is 0. background: the value in [0, 1] that a mask must exceed
        to win a pixel; "auto" takes the checkpoint's threshold, with or without PAMR; None gives every pixel to the
        best word. pamr: refine masks along the picture's edges. kp_w: share of the frozen CLIP's own map, in [0, 1].
        Both are as the checkpoint says unless given. method: "maskclip" asks that CLIP alone. blend: "feathered" fades
        windows into each other; "uniform" averages them as the benchmarks do. max_side: scale the answer,
        picture and masks, down to at most so many pixels; the model sees the same. max_pixels: refuse larger pictures.

        Raises TCLError if a picture or a word cannot be used.
        """
        if isinstance(image, (list, tuple)):
            return [
                self(
                    each,
                    words,
                    negative=negative,
                    background=background,
                    pamr=pamr,
                    kp_w=kp_w,
                    method=method,
                    blend=blend,
                    max_side=max_side,
                    max_pixels=max_pixels,
                )
                for each in image
            ]
        labels = parse_labels(words)
        rivals = parse_labels(negative, kind="negative prompts")
        settings = self.settings.but(pamr=pamr, kp_w=kp_w)
        threshold = _threshold(background, settings, method)
        if not labels:
            raise TCLError("words: at least one is needed.")
        if not 0 <= settings.kp_w <= 1:
            raise TCLError(f"kp_w: must lie in [0, 1], got {settings.kp_w}.")
        with self._lock:
            clock = [time.perf_counter()]
            picture = read_picture(image, max_pixels=max_pixels)
            features = self._cache.of(picture)
            clock.append(time.perf_counter())
            query = self._query((*labels, *rivals), settings, method, blend)
            clock.append(time.perf_counter())
            soft = features.soft_masks(query)
            soft = _against(soft[: len(labels)], soft[len(labels) :])
        shown = picture.within(max_side) if max_side else picture
        result = segmentation(shown, [label.name for label in labels], soft, threshold=threshold)
        clock.append(time.perf_counter())
        return replace(result, seconds=Seconds(*(end - begin for begin, end in pairwise(clock))))

    def features(self, image: Source, *, max_pixels: int = MAX_PIXELS) -> PictureFeatures:
        """Run the towers on a picture ahead of its words, or take what is kept of it."""
        with self._lock:
            return self._cache.of(read_picture(image, max_pixels=max_pixels))

    def _query(self, labels: Sequence[Label], settings: InferenceSettings, method: Method, blend: Blend) -> Query:
        names = [name for label in labels for name in label.names]
        missing = [name for name in names if name not in self._embeddings]
        if len(self._embeddings) + len(missing) > KEPT_WORDS:
            self._embeddings.clear()
            missing = names
        for name in missing:
            self._embeddings[name] = self.model.class_embeddings([name], settings.templates)[0]
        return Query(
            torch.stack([self._embeddings[name] for name in names]),
            torch.tensor([index for index, label in enumerate(labels) for _ in label.names]),
            method=method,
            pamr=settings.pamr,
            kp_w=settings.kp_w,
            blend=blend,
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise TCLError(f"device: {name!r} cannot be used here ({reason}). Use auto, cpu or cuda.") from error
    return device


def _threshold(background: float | str | None, settings: InferenceSettings, method: Method) -> float:
    """The value that a mask must exceed to win a pixel."""
    if method not in ("tcl", "maskclip"):
        raise TCLError(f"method: must be 'tcl' or 'maskclip', got {method!r}.")
    if background is None:
        return 0.0
    if background == "auto":
        return settings.background_threshold if method == "tcl" else MASKCLIP_BACKGROUND
    if isinstance(background, (int, float)) and 0 <= background <= 1:
        return float(background)
    raise TCLError(f"background: must be 'auto', a number in [0, 1] or None, got {background!r}.")


def _against(masks: Tensor, rivals: Tensor) -> Tensor:
    """Masks [N, h, w], 0 where one of the negative prompts [R, h, w] scores higher."""
    if not len(rivals):
        return masks
    return torch.where(masks >= rivals.amax(dim=0), masks, 0.0)
