"""The UV mask at latent size."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Downsample = Literal["nearest", "nearest-exact", "area", "any", "all"]


def downsample(mask: Tensor, size: tuple[int, int], mode: str = "nearest") -> Tensor:
    """Mask float [B, 1, H, W] in [0, 1] to float [B, 1, h, w], `size` = (h, w).

    nearest         the top-left texel of each cell, as torch's nearest takes it
    nearest-exact   the texel at the cell's centre
    area            the covered fraction of the cell
    any, all        1 where any texel, or where every texel, of the cell is covered

    Raises ValueError for another mode.
    """
    if mode in ("nearest", "nearest-exact"):
        return F.interpolate(mask, size, mode=mode)
    if mode == "area":
        return F.adaptive_avg_pool2d(mask, size)
    if mode == "any":
        return F.adaptive_max_pool2d(mask, size)
    if mode == "all":
        return -F.adaptive_max_pool2d(-mask, size)
    raise ValueError(f"mode {mode!r} is none of nearest, nearest-exact, area, any, all")


def dilate(mask: Tensor, cells: int) -> Tensor:
    """Grow a mask [B, 1, h, w] by `cells` in each direction, diagonals too; shrink it where `cells` is negative.

    A cell takes the largest (smallest) value within that distance. What lies beyond the picture's edge has no say,
    so an island that touches the edge does not shrink from there.
    """
    if cells == 0:
        return mask
    reach = abs(cells)
    grown = F.max_pool2d(mask if cells > 0 else -mask, 2 * reach + 1, stride=1, padding=reach)
    return grown if cells > 0 else -grown


def latent_mask(mask: Tensor, size: tuple[int, int], mode: str = "nearest", dilation: int = 0) -> Tensor:
    """The mask [B, 1, H, W] at latent size, float [B, 1, h, w] in [0, 1], grown by `dilation` latent cells."""
    return dilate(downsample(mask, size, mode), dilation)


def latent_weights(
    mask: Tensor, size: tuple[int, int], mode: str = "nearest", unmasked_weight: float = 0.0, dilation: int = 0
) -> Tensor:
    """What each latent texel counts in the loss, float [B, 1, h, w]: the mask at latent size, and
    `unmasked_weight` (0-1) where it is 0."""
    weights = latent_mask(mask, size, mode, dilation)
    return weights + unmasked_weight * (1 - weights)
