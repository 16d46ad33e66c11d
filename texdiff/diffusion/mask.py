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


def latent_weights(mask: Tensor, size: tuple[int, int], mode: str = "nearest", unmasked_weight: float = 0.0) -> Tensor:
    """What each latent texel counts in the loss, float [B, 1, h, w]: the mask at latent size, and
    `unmasked_weight` (0-1) where it is 0."""
    weights = downsample(mask, size, mode)
    return weights + unmasked_weight * (1 - weights)
