"""Resize a texture and its mask as one."""

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.uv.gutter import fill


def resize(
    texture: NDArray[np.uint8], mask: NDArray[np.bool_], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Texture and mask at another size; the image is made of covered texels only, the mask stays binary.

    Shrinking takes the mean of the covered texels in each new texel's area; growing interpolates (cubic) an image
    whose void was filled from the islands first. A new texel is covered where at least half of its area was. The void
    of the result is filled from the islands too, unless the size stays: then both come back unchanged.

    Args:
        texture: uint8 [H, W, 3].
        mask: bool [H, W].
        size: (height, width) wanted; the aspect may change.

    Returns:
        uint8 [h, w, 3] and bool [h, w]. The mask can come back empty where all islands are thinner than a new texel.

    Raises:
        ValueError: nothing is covered, the shapes do not fit, or the size is not positive.
    """
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"size is {tuple(size)}; use a (height, width) of at least 1")
    mask = np.asarray(mask, dtype=bool)
    filled = fill(texture, mask)
    if mask.shape == (height, width):
        return texture.copy(), mask.copy()
    # One axis may shrink while the other grows: first shrink, by area, then grow.
    shrunk = (min(mask.shape[0], height), min(mask.shape[1], width))
    weight: NDArray[np.floating] = mask.astype(np.float32)
    if shrunk != mask.shape:
        weighted = _shrink(filled * weight[..., None], shrunk)
        weight = _shrink(weight, shrunk)
        some = weight > 1e-6
        mean = weighted / np.where(some, weight, 1)[..., None]
        filled = fill(np.clip(np.rint(mean), 0, 255).astype(np.uint8), some)
    if shrunk != (height, width):
        grown = cv2.resize(filled, (width, height), interpolation=cv2.INTER_CUBIC)
        filled = np.asarray(grown, dtype=np.uint8).reshape(height, width, 3)
        weight = np.asarray(cv2.resize(weight, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.float32)
    return np.ascontiguousarray(filled, dtype=np.uint8), weight >= 0.5 - 1e-6


def resize_weighted(
    texture: NDArray[np.uint8], weights: NDArray[np.uint8], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Texture and the weights of its texels at another size; covered is what weighs more than 0.

    The texture, and weights of 0 and 255 alone, are what `resize` makes of them. Others take the mean over each new
    texel's area, void being 0, rounded to a 255th; growing interpolates (linear).

    Args:
        texture: uint8 [H, W, 3].
        weights: in 255ths, uint8 [H, W].
        size: (height, width) wanted.

    Returns:
        uint8 [h, w, 3] and uint8 [h, w].

    Raises:
        ValueError: as `resize`.
    """
    image, covered = resize(texture, weights > 0, size)
    if not is_grey(weights):
        return image, covered.view(np.uint8) * np.uint8(255)
    return image, np.rint(resize_mean(weights, size)).astype(np.uint8)


def resize_mean(
    values: NDArray[np.floating] | NDArray[np.bool_ | np.uint8], size: tuple[int, int]
) -> NDArray[np.float32]:
    """A plane [H, W] at another size (height, width), float32 [h, w]: the mean over each new texel's area; growing
    interpolates (linear). Of a mask it is the share that `resize` goes by."""
    height, width = size
    mean = _shrink(values, (min(values.shape[0], height), min(values.shape[1], width)))
    grown = cv2.resize(mean, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(grown, np.float32).reshape(height, width)


def is_grey(weights: NDArray[np.uint8]) -> bool:
    """Whether weights, uint8 [H, W], are others than 0 and 255."""
    return bool(((weights > 0) & (weights < 255)).any())


def _shrink(values: NDArray[np.floating] | NDArray[np.bool_ | np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Mean over each new texel's area; values [H, W] or [H, W, 3]."""
    shrunk = cv2.resize(np.asarray(values, dtype=np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, dtype=np.float32).reshape(*size, *values.shape[2:])
