"""The answer to words asked of a picture: soft masks, a label map, scores, and how they are drawn and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tcl.files import replacing, write_json
from tcl.inference.masks import resize
from tcl.inference.overlays import class_colours
from tcl.segmenter.drawing import draw_overlay
from tcl.segmenter.source import Picture


class Seconds(NamedTuple):
    """How long an answer took: the towers on the picture, the words, the masks and labels."""

    picture: float
    words: float
    masks: float

    @property
    def total(self) -> float:
        return sum(self)


UNTIMED = Seconds(0.0, 0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Masks of N words on a picture of H x W pixels.

    words: the N names, in the order in which they were asked for. labels: [H, W], uint8 (uint16 from 256 words on);
    0 is background, i the i-th word. scores: float32 [N] in [0, 1], the mean of a word's mask over the pixels that it
    won, 0 if it won none. threshold: what a mask had to exceed to win a pixel. soft: float32 tensor [N, h, w] in
    [0, 1], the masks at the size at which the model sees the picture. seconds: what the answer took.
    """

    picture: Picture
    words: tuple[str, ...]
    labels: NDArray[np.unsignedinteger[Any]]
    scores: NDArray[np.float32]
    threshold: float
    soft: Tensor
    seconds: Seconds = UNTIMED

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def masks(self) -> NDArray[np.float32]:
        """Soft masks, float32 [N, H, W] in [0, 1]: 4 bytes for each word and pixel, made anew at each access."""
        masks = np.empty((len(self.words), *self.size), np.float32)
        for index, soft in enumerate(self.soft):
            masks[index] = upsampled(soft, self.size)
        return masks

    def mask(self, word: str) -> NDArray[np.float32]:
        """The soft mask of one word, float32 [H, W] in [0, 1]; raises KeyError if it was not asked for."""
        return upsampled(self.soft[self._index(word)], self.size)

    def where(self, word: str) -> NDArray[np.bool_]:
        """The pixels that a word won, bool [H, W]; raises KeyError if it was not asked for."""
        return self.labels == self._index(word) + 1

    def overlay(self, *, legend: bool = True) -> Image.Image:
        """The picture under the colours of its words, as an RGB image of W x H pixels, with a legend below if asked."""
        return draw_overlay(self.picture.pixels, self.labels, self.words, legend=legend)

    def to_coco(self, *, image_id: int = 1, first_id: int = 1) -> dict[str, Any]:
        """The masks as a COCO data set of one image: one annotation for each word that won pixels, in compressed RLE.

        Category ids are the values of `labels`. Plain values, ready for JSON; `score` is that of the word.
        """
        height, width = self.size
        image = {"id": image_id, "file_name": self.picture.name, "height": height, "width": width}
        categories = [{"id": index, "name": word} for index, word in enumerate(self.words, start=1)]
        found = [index for index in range(1, len(self.words) + 1) if (self.labels == index).any()]
        annotations = [
            {"id": first_id + offset, "image_id": image_id, "category_id": index, **self._annotation(index)}
            for offset, index in enumerate(found)
        ]
        return {"images": [image], "categories": categories, "annotations": annotations}

    def save(
        self, folder: str | Path, *, stem: str | None = None, soft: bool = False, coco: bool = False
    ) -> dict[str, Path]:
        """Write <stem>_overlay.png and <stem>_labels.png, atomically: what was written, by kind.

        labels.png holds the values of `labels`: 8 bits with a palette of the overlay's colours, 16 bits from 256 words
        on. soft: also a mask for each word as <stem>_mask_<number>_<word>.png, grey, 255 is 1. coco: also
        <stem>_coco.json. stem: that of the picture's name unless given.
        """
        stem = stem or Path(self.picture.name).stem
        written = {name: Path(folder) / f"{stem}_{name}.png" for name in ("overlay", "labels")}
        _write_png(written["overlay"], self.overlay())
        _write_png(written["labels"], self._label_image())
        if soft:
            for index, word in enumerate(self.words, start=1):
                name = f"mask_{index:0{len(str(len(self.words)))}}_{_slug(word)}"
                written[name] = Path(folder) / f"{stem}_{name}.png"
                _write_png(written[name], Image.fromarray(np.rint(self.mask(word) * 255).astype(np.uint8)))
        if coco:
            written["coco"] = Path(folder) / f"{stem}_coco.json"
            write_json(written["coco"], self.to_coco())
        return written

    def _index(self, word: str) -> int:
        if word not in self.words:
            raise KeyError(f"{word!r} was not asked for; there are: {', '.join(self.words)}")
        return self.words.index(word)

    def _annotation(self, index: int) -> dict[str, Any]:
        from pycocotools import mask as rle

        encoded = rle.encode(np.asfortranarray(self.labels == index, dtype=np.uint8))
        return {
            "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")},
            "area": int(rle.area(encoded)),
            "bbox": [float(value) for value in rle.toBbox(encoded)],
            "iscrowd": 0,
            "score": float(self.scores[index - 1]),
        }

    def _label_image(self) -> Image.Image:
        image = Image.fromarray(self.labels)
        if self.labels.dtype == np.uint8:
            image.putpalette([0, 0, 0, *class_colours(len(self.words)).ravel().tolist()])
        return image


def segmentation(picture: Picture, words: Sequence[str], soft: Tensor, *, threshold: float) -> Segmentation:
    """The answer that soft masks [N, h, w] give: each pixel goes to the best mask, if that exceeds the threshold."""
    size = (picture.pixels.shape[0], picture.pixels.shape[1])
    labels = np.zeros(size, np.uint8 if len(words) < 256 else np.uint16)
    best = np.full(size, threshold, np.float32)
    # Resizing never raises the maximum: a word that is nowhere above the threshold here wins no pixel there.
    for index in np.flatnonzero(soft.amax(dim=(1, 2)).numpy() > threshold).tolist():
        mask = upsampled(soft[index], size)
        better = mask > best
        np.copyto(best, mask, where=better)
        labels[better] = index + 1
    scores = np.zeros(len(words), np.float32)
    for index in np.unique(labels[labels > 0]).tolist():
        scores[index - 1] = best[labels == index].mean(dtype=np.float64)
    return Segmentation(picture, tuple(words), labels, scores, threshold, soft)


def upsampled(mask: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """One mask [h, w] at the picture's size, bilinear: float32 [H, W]."""
    with torch.no_grad():
        grown = resize(mask[None, None], size)[0, 0]
    return grown.clamp(0, 1).numpy()


def _write_png(path: Path, image: Image.Image) -> None:
    with replacing(path) as temporary:
        image.save(temporary)


def _slug(word: str) -> str:
    """A word as part of a file name: letters, digits and hyphens, at most 40."""
    kept = "".join(character if character.isalnum() else "-" for character in word)
    return "-".join(part for part in kept.split("-") if part)[:40] or "word"
