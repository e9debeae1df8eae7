"""From encoded bytes to a training image.

An augmentation is a function of the image and a seed: it does not matter which worker does the work, or when.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tcl.errors import TCLError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Seed = tuple[int, ...]
"""Non-negative integers that together key one draw of an augmentation."""

Transform = Callable[["Image", Seed], "Tensor"]
"""From an RGB image of any size to a normalised float32 tensor [3, size, size]; a function of its arguments alone."""

Triple = tuple[float, float, float]


def decode(image: bytes, *, key: str) -> Image:
    """The RGB image in `image` (JPEG, PNG or WebP). Raises TCLError, naming `key`, if it cannot be read."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(image)) as opened:
            converted: Image = opened.convert("RGB")
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise TCLError(f"The image of pair {key} cannot be read: {type(error).__name__}: {error}.") from None
    return converted


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


@dataclass(frozen=True)
class Seeded:
    """A transform that draws from the global generators, made a function of the image and a seed.

    `random`, numpy and torch (CPU) are seeded for the call, and put back afterwards as they were.
    """

    transform: Callable[[Image], Tensor]

    def __call__(self, image: Image, seed: Seed) -> Tensor:
        """[3, size, size] float32, normalised."""
        import torch

        words = np.random.SeedSequence(seed).generate_state(3, np.uint64).tolist()
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            random.seed(words[0])
            np.random.seed(words[1] & 0xFFFFFFFF)
            torch.default_generator.manual_seed(words[2])  # torch.manual_seed would reseed the GPUs as well
            return self.transform(image)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])


@dataclass(frozen=True)
class Flip:
    """The augmentation "flip" of `training_transform`."""

    size: int
    mean: Triple
    std: Triple

    def __call__(self, image: Image, seed: Seed) -> Tensor:
        """[3, size, size] float32, normalised."""
        import torch

        pixels = np.asarray(_fitted(image, self.size), dtype=np.float32)
        if np.random.SeedSequence(seed).generate_state(1)[0] & 1:
            pixels = pixels[:, ::-1]
        mean, std = (255 * np.array(values, dtype=np.float32) for values in (self.mean, self.std))
        return torch.from_numpy(np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1)))


def _fitted(image: Image, size: int) -> Image:
    """`image` with its shorter side resized (bilinear) to `size`, and its centre of `size` x `size` pixels."""
    import PIL.Image

    scale = size / min(image.size)
    if scale != 1:
        width, height = (max(size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _deit(size: int, mean: Triple, std: Triple) -> Transform:
    """timm's transform with the values of the official configuration (colour jitter is inactive beside RandAugment)."""
    from tcl.mends import mend_torchvision

    mend_torchvision()
    from timm.data.transforms_factory import create_transform

    transform: Callable[[Image], Tensor] = create_transform(
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
    )
    return Seeded(transform)
