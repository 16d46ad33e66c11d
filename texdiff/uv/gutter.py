"""Fill the void of an atlas from its islands, so that nothing that reads over an island's border meets a stranger."""

import cv2
import numpy as np
from numpy.typing import NDArray


def fill(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Give every texel outside ``mask`` a colour made of the covered texels alone; covered texels stay bit-identical.

    The push-pull pyramid of Gortler et al., "The Lumigraph" (1996): going up, each level holds the mean colour of the
    covered texels below it; going down, cells without any take the smoothed colour of the level above. So a texel of
    any mip-map level that holds a covered texel shows nothing but the islands' own colours.

    Args:
        texture: uint8 [H, W, 3]. What stands outside the mask has no influence on the result.
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
    weight = mask.astype(np.float32)
    colour = _pull_push(texture.astype(np.float32) * weight[..., None], weight)
    filled = np.clip(np.rint(colour), 0, 255).astype(np.uint8)
    filled[mask] = texture[mask]
    return filled


def _pull_push(weighted: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.floating]:
    """Colours everywhere, float32 [H, W, 3], from colours times weights [H, W, 3] and weights [H, W]."""
    height, width = weight.shape
    known = weight > 0
    colour = weighted / np.where(known, weight, np.float32(1))[..., None]
    if known.all():
        return colour
    # Cells of 2 x 2, the odd last row or column alone: padded with texels of no weight.
    pad = ((0, height % 2), (0, width % 2))
    smaller_weight = _halve(np.pad(weight, pad))
    smaller = _pull_push(_halve(np.pad(weighted, (*pad, (0, 0)))), smaller_weight)
    up_size = (2 * smaller.shape[1], 2 * smaller.shape[0])
    above = cv2.resize(smaller, up_size, interpolation=cv2.INTER_LINEAR)[:height, :width]
    return np.where(known[..., None], colour, np.asarray(above, dtype=np.float32).reshape(height, width, 3))


def _halve(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean of every 2 x 2 cell; both sides are even."""
    height, width = values.shape[:2]
    size = (width // 2, height // 2)
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
