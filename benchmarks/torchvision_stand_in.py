"""The few transforms of torchvision that diffusers' training scripts use, on Pillow pictures, in torchvision's meaning.

texdiff does without torchvision. This lets such a script be measured where there is none.
"""

import importlib.machinery
import random
import sys
import types
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class InterpolationMode(Enum):
    """Pillow's filters, by torchvision's names."""

    NEAREST = Image.Resampling.NEAREST
    BILINEAR = Image.Resampling.BILINEAR
    BICUBIC = Image.Resampling.BICUBIC
    BOX = Image.Resampling.BOX
    HAMMING = Image.Resampling.HAMMING
    LANCZOS = Image.Resampling.LANCZOS


class Lambda:
    """Any function as a transform."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __call__(self, value: Any) -> Any:
        return self.function(value)


class Compose:
    """One transform after another."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, value: Any) -> Any:
        for transform in self.transforms:
            value = transform(value)
        return value


class Resize:
    """The shorter side becomes `size` pixels; the longer one keeps the proportion, rounded down."""

    def __init__(self, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> None:
        self.size, self.filter = size, interpolation.value

    def __call__(self, picture: Image.Image) -> Image.Image:
        short = min(picture.size)
        if short == self.size:
            return picture
        width, height = (self.size * side // short for side in picture.size)
        return picture.resize((width, height), self.filter)


class CenterCrop:
    """The middle `size` x `size` pixels of a picture at least so large."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        left, top = (round((side - self.size) / 2) for side in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))


class RandomCrop(CenterCrop):
    """`size` x `size` pixels from anywhere in a picture at least so large."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        left, top = (random.randint(0, side - self.size) for side in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))


class RandomHorizontalFlip:
    """Every other picture, by chance, seen in a mirror."""

    def __call__(self, picture: Image.Image) -> Image.Image:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else picture


class ToTensor:
    """A picture of 8-bit channels as float [C, H, W], 0-1."""

    def __call__(self, picture: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float().div(255)


class Normalize:
    """(value - mean) / std of each channel."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(list(values))[:, None, None] for values in (mean, std))

    def __call__(self, picture: Tensor) -> Tensor:
        return (picture - self.mean) / self.std


def install() -> None:
    """From now on `from torchvision import transforms` gives these."""
    package = types.ModuleType("torchvision")
    package.__spec__ = importlib.machinery.ModuleSpec("torchvision", loader=None, is_package=True)
    package.transforms = sys.modules[__name__]  # type: ignore[attr-defined]
    sys.modules["torchvision"] = package
    sys.modules["torchvision.transforms"] = sys.modules[__name__]
