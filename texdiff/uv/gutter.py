"""Fill the void of an atlas from its islands, so that nothing that reads over an island's border meets a stranger."""

import cv2
import numpy as np
from numpy.typing import NDArray

# Rounds of 3 x 3 means taken in the void of every level (relaxation). From black to 240 over 8, 32 and 128 texels the
# largest step between neighbours is 76, 43 and 11 levels without, 33, 13 and 5 with two rounds; a ramp has 30, 8 and 2.
SMOOTHINGS = 2


def fill(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Give every texel outside ``mask`` a colour made of the covered texels alone; covered texels stay bit-identical.

    The push-pull pyramid of Gortler et al., "The Lumigraph" (1996): going up, each level holds the mean colour of the
    covered texels below it; going down, cells without any take the colour of the level above and are smoothed with
    their neighbours. So a texel of any mip-map level that holds a covered texel shows the islands' own colours.

    Args:
        texture: uint8 [H, W, 3]. Texels outside the mask have no influence on the result.
        mask: bool [H, W], True where covered.

    Returns:
        uint8 [H, W, 3], a new array.

    Raises:
        ValueError: nothing is covered, or the shapes do not fit.
    """
    texture, mask = np.asarray(texture), np.asarray(mask, dtype=bool)
    if texture.dtype != np.uint8 or texture.ndim != 3 or texture.shape[2] != 3:
        raise ValueError(f"texture is {texture.dtype} {texture.shape}; use uint8 [H, W, 3]")
    if mask.shape != texture.shape[:2]:
        raise ValueError(f"mask has shape {mask.shape}, texture {texture.shape[:2]}; use the same size")
    if not mask.any():
        raise ValueError("the mask is empty: there is no covered texel to fill the void from")
    if mask.all():
        return texture.copy()
    known = mask.astype(np.uint8)
    # Halved right away: the finest level needs no arithmetic but this.
    weighted, weight = _halve(texture * known[..., None]), _halve(known)
    smooth = _between(texture.astype(np.float32), known, _pull_push(weighted, weight))
    filled = cv2.convertScaleAbs(smooth)  # rounds to nearest, ties to even
    return np.asarray(cv2.copyTo(texture, known, filled), dtype=np.uint8)


def _pull_push(weighted: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colours everywhere, float32 [h, w, 3], from colours times weights [h, w, 3] and weights [h, w]."""
    known = weight > 0
    colour = np.divide(weighted, np.where(known, weight, 1)[..., None], dtype=np.float32)
    if known.all():
        return colour
    return _between(colour, known.astype(np.uint8), _pull_push(_halve(weighted), _halve(weight)))


def _between(colour: NDArray[np.float32], known: NDArray[np.uint8], coarse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Known colours, and between them those of the level above, drawn smoothly onto them."""
    height, width = known.shape
    doubled = cv2.resize(coarse, (2 * coarse.shape[1], 2 * coarse.shape[0]), interpolation=cv2.INTER_LINEAR)
    smooth = cv2.copyTo(colour, known, np.ascontiguousarray(doubled[:height, :width]))
    for _ in range(SMOOTHINGS):
        smooth = cv2.copyTo(colour, known, cv2.blur(smooth, (3, 3), borderType=cv2.BORDER_REPLICATE))
    return np.asarray(smooth, dtype=np.float32)


def _halve(values: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of every 2 x 2 cell; an odd last row or column is taken together with zeros."""
    height, width = values.shape[:2]
    if height % 2 or width % 2:
        values = cv2.copyMakeBorder(values, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT, value=0)  # type: ignore
    size = ((width + 1) // 2, (height + 1) // 2)
    return np.asarray(cv2.resize(np.asarray(values, dtype=np.float32), size, interpolation=cv2.INTER_AREA))
