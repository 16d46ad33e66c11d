"""The UV mask at latent size."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Downsample = Literal["nearest", "nearest-exact", "area", "any", "all"]


def downsample(mask: Tensor, size: tuple[int, int], mode: str = "nearest") -> Tensor:
    """Mask float [B, 1, H, W] in [0, 1] to float [B, 1, h, w], `size` = (h, w).

    nearest         the weight of the top-left texel of each cell, as torch's nearest takes it
    nearest-exact   the weight of the texel at the cell's centre
    area            the mean weight of the cell's texels: of a binary mask, the covered fraction
    any, all        the largest and the smallest weight: 1 where any texel, or where every texel, is covered

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

    A cell takes the largest (smallest) value within that distance. What lies beyond the image's edge does not count,
    so an island that touches the edge does not shrink from there.
    """
    if cells == 0:
        return mask
    distance = abs(cells)
    grown = F.max_pool2d(mask if cells > 0 else -mask, 2 * distance + 1, stride=1, padding=distance)
    return grown if cells > 0 else -grown


def latent_mask(mask: Tensor, size: tuple[int, int], mode: str = "nearest", dilation: int = 0) -> Tensor:
    """The mask [B, 1, H, W] at latent size, float [B, 1, h, w] in [0, 1], grown by `dilation` latent cells."""
    return dilate(downsample(mask, size, mode), dilation)


MOST = 16.0
"""A cell's density counts up to this many times its texture's median. Meshes are found whose UV map gathers faces in
a single texel (up to three quarters of a texture's surface), and without a limit that texel is all that trains."""


def weigh_by_density(weights: Tensor, mask: Tensor, density: Tensor) -> Tensor:
    """Weights of latent cells, float [B, 1, h, w] in [0, 1], times the mean density of the covered texels in each
    cell, each by its weight, of which no more than MOST times the median over the texture's cells counts.

    Each texture's weights keep their sum: what shifts is which of its cells count, not how much the texture does
    beside others. Cells with a weight but no covered texel, as dilation makes them, take the texture's mean density.

    Args:
        weights: the mask at latent size, [B, 1, h, w].
        mask: float [B, 1, H, W] in [0, 1], what each texel weighs.
        density: float [B, 1, H, W], surface of the mesh per texel, of any unit; 0 or more.
    """
    size = (weights.shape[2], weights.shape[3])
    covered, surface = F.adaptive_avg_pool2d(mask, size), F.adaptive_avg_pool2d(density * mask, size)
    over_all = surface.sum(dim=(2, 3), keepdim=True) / covered.sum(dim=(2, 3), keepdim=True)
    mean = torch.where(covered > 0, surface / covered, over_all)
    median = torch.where(weights > 0, mean, torch.nan).flatten(1).nanmedian(dim=1).values.view(-1, 1, 1, 1)
    weighed = weights * torch.where(median > 0, mean.minimum(MOST * median), mean)
    before, after = weights.sum(dim=(2, 3), keepdim=True), weighed.sum(dim=(2, 3), keepdim=True)
    return torch.where(after > 0, weighed * (before / after), weights)


class CellWeights(NamedTuple):
    """What each latent cell counts in the loss, and what it is; float [B, 1, h, w] each."""

    target: Tensor
    """Weight of the error against the target: the mask at latent size."""
    outside: Tensor
    """Weight of the error against what stands outside the mask."""
    covered: Tensor
    """Mean weight of the cell's texels, 0-1: of a binary mask, the share that is covered."""


def cell_weights(
    mask: Tensor,
    size: tuple[int, int],
    mode: str = "nearest",
    unmasked_weight: float = 0.0,
    dilation: int = 0,
    density: Tensor | None = None,
) -> CellWeights:
    """The weights of latent cells, `size` = (h, w), for a mask [B, 1, H, W] in [0, 1].

    The target's is the mask at latent size, by `density` [B, 1, H, W] where it is given (see `weigh_by_density`);
    outside of it a cell weighs `unmasked_weight` (0-1).
    """
    counted = latent_mask(mask, size, mode, dilation)
    return CellWeights(
        target=counted if density is None else weigh_by_density(counted, mask, density),
        outside=unmasked_weight * (1 - counted),
        covered=downsample(mask, size, "area"),
    )
