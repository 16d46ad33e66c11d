"""What the texels of a mask file weigh: 0 or 1, or what its greys say.

A file was drawn with weights where more than 5 % of its texels are grey, 16 to 239, without black and white both within
2 texels: each texel then weighs its value / 255, exactly, and void is what is 0. In any other file grey is the rim of
anti-aliased islands, or what JPEG made of black and white: texels count from 128 on, so that a mask that is meant to be
black and white stays it. The rule looks at one file alone, so what a texture weighs does not depend on the rest of its
dataset.
"""

from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLD = 128
MUCH_GREY = 0.05
_GREY = (16, 239)
_RIM = 2  # texels


class MaskKind(IntEnum):
    """How a mask file is read."""

    BINARY = 0
    CUT = 1  # it has some grey, which is cut at THRESHOLD
    WEIGHTS = 2


def grey_share(grey: NDArray[np.uint8]) -> float:
    """Share of a mask's texels, uint8 [H, W], that are neither black nor white, whatever JPEG did to them."""
    return float(_is_grey(grey).mean())


def mask_kind(grey: NDArray[np.uint8]) -> MaskKind:
    """How a mask, as it is stored, uint8 [H, W], is read."""
    near = np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)
    black, white = (cv2.dilate(side.view(np.uint8), near) > 0 for side in (grey < _GREY[0], grey > _GREY[1]))
    between = _is_grey(grey)
    areas = between & ~(black & white)
    if areas.mean() > MUCH_GREY:
        return MaskKind.WEIGHTS
    return MaskKind.CUT if between.any() else MaskKind.BINARY


def _is_grey(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return np.asarray(grey.clip(*_GREY) == grey)


def empty_mask(grey: NDArray[np.uint8]) -> str:
    """What is wrong with a mask, as it is stored, uint8 [H, W], of which nothing weighs anything."""
    dark = f"; its brightest value is {grey.max()}, and what counts must be {THRESHOLD} or more" if grey.any() else ""
    return f"the mask is empty{dark}"


def mask_weights(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The weights, in 255ths, uint8 [H, W], of a mask as it is stored, uint8 [H, W]."""
    if mask_kind(grey) is MaskKind.WEIGHTS:
        return grey
    return (grey >= THRESHOLD).view(np.uint8) * np.uint8(255)
