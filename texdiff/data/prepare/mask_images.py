"""An image and its mask: decoded, and the mask fitted to the image."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.data.mask_weights import mask_weights
from texdiff.errors import InputError
from texdiff.uv.image import ImageError, open_unlimited, read_image, read_mask


def read_pair(image: Path, mask: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Texture, uint8 [H, W, 3], and mask as it is stored, uint8 [h, w]; `mask` may be the image: then its alpha.

    Raises InputError, with the file's name, where one of them cannot be decoded or there is no mask.
    """
    texture = _decoded(image, "the image")
    if mask == image:
        return texture, read_alpha(image)
    try:
        return texture, read_mask(mask)
    except ImageError as error:
        raise InputError(f"{mask}: the mask {error}") from None


def fit_mask(grey: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The weights, in 255ths, of a mask as it is stored, uint8 [h, w], as uint8 [H, W] = size: resized (nearest) where
    it has the image's shape, or is a square, which in UV space has any image's shape. Raises InputError where it is
    neither.
    """
    if grey.shape != size:
        same_shape = abs(grey.shape[0] * size[1] - grey.shape[1] * size[0]) <= max(size) * max(grey.shape) * 0.01
        if not same_shape and grey.shape[0] != grey.shape[1]:
            raise InputError(
                f"the mask is {grey.shape[1]}x{grey.shape[0]} but the image {size[1]}x{size[0]}: their shapes differ"
            )
        grey = np.asarray(cv2.resize(grey, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return mask_weights(grey)


def _decoded(path: Path, what: str) -> NDArray[np.uint8]:
    try:
        return read_image(path)
    except ImageError as error:
        raise InputError(f"{path}: {what} {error}") from None


def read_alpha(path: Path) -> NDArray[np.uint8]:
    """The alpha of an image that `read_image` has decoded, so its size is known to be sound. Raises InputError where
    there is none, or it is opaque everywhere."""
    with open_unlimited(path) as image:
        if not image.has_transparency_data:
            raise InputError(f"{path}: has neither a mask of its own nor alpha; {_where_masks_are(path)}")
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    if alpha.min() == 255:
        raise InputError(
            f"{path}: has no mask of its own, and its alpha is opaque everywhere; {_where_masks_are(path)}"
        )
    return alpha


def _where_masks_are(path: Path) -> str:
    """The layouts in which an image's mask is found."""
    return (
        f"put the mask beside it as {path.stem}-masklabel.png (OneTrainer) or {path.stem}_mask.png, into a folder as "
        f"masks/{path.stem}.png (kohya's conditioning_data_dir), or into its alpha; of meshes texdiff prepare makes it"
    )
