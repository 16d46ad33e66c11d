"""First station of `prepare` for a picture with a mask, in a worker: both decoded, fitted to each other, looked at."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texdiff.errors import InputError
from texdiff.uv.image import PictureError, read_grey16, read_picture

THRESHOLD = 128  # from here on a texel of a grey mask counts as mapped, in training too
# Of 155 furniture textures with a void, 83 % vary more inside the mask than outside. Among 8 textures whose masks are
# right, two thirds the other way round would happen once in 2,000 datasets.
_ENOUGH, _MOST = 8, 2 / 3


def read_pair(picture: Path, mask: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Texture, uint8 [H, W, 3], and mask as it is stored, uint8 [h, w]; `mask` may be the picture: then its alpha.

    Raises InputError, with the file's name, where one of them can't be decoded or there is no mask.
    """
    texture = _decoded(picture, "the picture")
    if mask == picture:
        return texture, _alpha(picture)
    return texture, np.rint(_decoded(mask, "the mask").mean(axis=2)).astype(np.uint8)


def fit_mask(grey: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask, uint8 [h, w], as bool [H, W] = size: resized (nearest) where it has the picture's shape, or is a square,
    which in UV space has any picture's shape. Raises InputError where it has not.
    """
    if grey.shape != size:
        same_shape = abs(grey.shape[0] * size[1] - grey.shape[1] * size[0]) <= max(size) * max(grey.shape) * 0.01
        if not same_shape and grey.shape[0] != grey.shape[1]:
            raise InputError(
                f"the mask is {grey.shape[1]}x{grey.shape[0]} but the picture {size[1]}x{size[0]}: not the same shape"
            )
        grey = np.asarray(cv2.resize(grey, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8)
    return grey >= THRESHOLD


def read_surface(source: Path | bytes, size: tuple[int, int]) -> NDArray[np.uint16]:
    """A surface file of a picture of size (height, width), uint16 [H, W]. Raises InputError where it is none."""
    try:
        grey = read_grey16(source)
    except PictureError as error:
        raise InputError(f"the surface file {error}; prepare the dataset again from the meshes") from None
    if grey.shape != size:
        raise InputError(
            f"the surface file is {grey.shape[1]}x{grey.shape[0]} but the picture {size[1]}x{size[0]} pixels; prepare "
            "the dataset again from the meshes"
        )
    return grey


def variation(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Share of horizontal neighbours that differ, inside the mask and outside; None where one of these is next to none.

    texture uint8 [H, W, 3], mask bool [H, W]. Differences of up to 2 grey levels are JPEG's, not the picture's.
    """
    differ = np.abs(np.diff(texture.astype(np.int16), axis=1)).max(axis=2, initial=0) > 2
    inside = mask[:, 1:] & mask[:, :-1]
    outside = ~mask[:, 1:] & ~mask[:, :-1]
    if not inside.any() or outside.sum() < 0.02 * mask.size:
        return None
    return float(differ[inside].mean()), float(differ[outside].mean())


def many_inverted(outside: int, compared: int) -> bool:
    """Whether a dataset's masks must be inverted, of which so many textures, out of those that could be compared, vary
    more outside than inside."""
    return compared >= _ENOUGH and outside >= _MOST * compared


def looks_inverted(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bool:
    """Whether the void is what varies: next to no neighbours differ inside the mask, and many outside."""
    shares = variation(texture, mask)
    return shares is not None and shares[0] < 0.01 and shares[1] > 0.2


def _decoded(path: Path, what: str) -> NDArray[np.uint8]:
    try:
        return read_picture(path)
    except PictureError as error:
        raise InputError(f"{path}: {what} {error}") from None


def _alpha(path: Path) -> NDArray[np.uint8]:
    """The alpha of a picture that `read_picture` has decoded, so its size is known to be sound."""
    with Image.open(path) as image:
        if not image.has_transparency_data:
            raise InputError(f"{path}: has neither a mask of its own nor alpha: put the mask beside it or into alpha")
        return np.asarray(image.convert("RGBA").getchannel("A"))
