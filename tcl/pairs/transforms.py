"""From encoded bytes to a training image.

An augmentation is a function of the image and a seed: it does not matter which worker does the work, or when.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tcl.errors import TCLError
from tcl.pairs.images import decoded, image_size, open_image, resized_crop

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Seed = tuple[int, ...]
"""Non-negative integers that together key one draw of an augmentation."""

Triple = tuple[float, float, float]


class Transform(Protocol):
    """From an encoded image of any size to a normalised float32 tensor [3, size, size]; a function of its arguments.

    It may seed the global generators: `kept_generators` puts them back. Raises TCLError if the image cannot be read.
    """

    @property
    def size(self) -> int: ...

    def __call__(self, image: bytes, seed: Seed, out: Tensor | None = None) -> Tensor:
        """The tensor, which is `out` if that is given: one of the same shape, to write into."""


def training_transform(name: str, *, size: int, mean: Triple, std: Triple) -> Transform:
    """The augmentation `name`, giving `size` x `size` pixels, normalised as (x - mean) / std with x in [0, 1].

    "deit": timm's recipe as in the official configuration (random resized crop, flip, RandAugment, random erasing).
    "flip": the whole image, shorter side resized and centre cropped if need be, flipped half of the time.
    Raises TCLError for any other name.
    """
    if name == "deit":
        return _deit(size, mean, std)
    if name == "flip":
        return Flip(size, mean, std)
    raise TCLError(f"The augmentation is one of 'deit' and 'flip', not {name!r}.")


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put the global generators (of `random`, numpy, torch on the CPU), which augmentations seed, back afterwards."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def seed_generators(seed: Seed) -> None:
    """Seed the three global generators, each by a number of its own."""
    import torch

    words = np.random.SeedSequence(seed).generate_state(3, np.uint64).tolist()
    random.seed(words[0])
    np.random.seed(words[1] & 0xFFFFFFFF)
    torch.default_generator.manual_seed(words[2])  # torch.manual_seed would reseed the GPUs as well


@dataclass(frozen=True)
class Flip:
    """The augmentation "flip" of `training_transform`."""

    size: int
    mean: Triple
    std: Triple

    def __call__(self, image: bytes, seed: Seed, out: Tensor | None = None) -> Tensor:
        """[3, size, size] float32, normalised; `out` if given."""
        import torch

        pixels = np.asarray(_fitted(decoded(open_image(image)), self.size), dtype=np.float32)
        if np.random.SeedSequence(seed).generate_state(1)[0] & 1:
            pixels = pixels[:, ::-1]
        mean, std = (255 * np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        out = torch.empty(3, self.size, self.size) if out is None else out
        out.numpy()[...] = ((pixels - mean) / std).transpose(2, 0, 1)
        return out


def _fitted(image: Image, size: int) -> Image:
    """`image` with its shorter side resized (bilinear) to `size`, and its centre of `size` x `size` pixels."""
    import PIL.Image

    scale = size / min(image.size)
    if scale != 1:
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@dataclass(frozen=True)
class Deit:
    """The augmentation "deit" of `training_transform`: timm's parts, the image decoded only after the crop is drawn."""

    size: int
    crop: Any
    augment: Callable[[Image], Image]
    erase: Callable[[Tensor], Tensor]
    mean: Triple
    std: Triple

    def __call__(self, image: bytes, seed: Seed, out: Tensor | None = None) -> Tensor:
        """[3, size, size] float32, normalised; `out` if given."""
        import torch

        width, height = image_size(image)
        seed_generators(seed)
        empty = torch.empty((height, width), device="meta")  # the draw asks an image for its size alone
        top, left, height, width = self.crop.get_params(empty, self.crop.scale, self.crop.ratio)
        part = resized_crop(image, (left, top, left + width, top + height), self.size)
        return self.erase(normalised(self.augment(part), self.mean, self.std, out))


def normalised(image: Image, mean: Triple, std: Triple, out: Tensor | None = None) -> Tensor:
    """What torchvision's ToTensor and Normalize make of an RGB image, bit for bit.

    [3, H, W] float32; `out` if given.
    """
    import torch

    out = torch.empty(3, image.height, image.width) if out is None else out
    for plane, band, shift, scale in zip(out.numpy(), "RGB", mean, std, strict=True):
        plane[...] = np.frombuffer(image.tobytes("raw", band), dtype=np.uint8).reshape(plane.shape)
        plane /= 255
        plane -= np.float32(shift)
        plane /= np.float32(scale)
    return out


def _deit(size: int, mean: Triple, std: Triple) -> Deit:
    """timm's transform with the values of the official configuration (colour jitter is inactive beside RandAugment)."""
    from tcl.mends import mend_torchvision

    mend_torchvision()
    from timm.data.transforms_factory import create_transform
    from torchvision.transforms import Compose

    parts = create_transform(
        input_size=size,
        is_training=True,
        scale=(0.08, 1.0),
        hflip=0.5,
        interpolation="bilinear",
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.4,
        re_prob=0.25,
        re_mode="pixel",
        mean=mean,
        std=std,
    ).transforms
    crop, flip, rand_augment, _to_tensor, _normalise, erase = parts
    return Deit(size, crop, Compose([flip, rand_augment]), erase, mean, std)
