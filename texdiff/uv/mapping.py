"""Measures of a UV map as such: its range, flips, overlaps, UDIM layout and texel density."""

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.coverage import coverage_mask, overlap_count

# Less than this many texels of area is no triangle: the rounding of its float32 coordinates is larger.
DEGENERATE_TEXELS = 1e-6
# A UDIM tile is laid out at this size to compare it with its neighbours.
UDIM_SIZE = (64, 64)
UDIM_COLUMNS = 10
# A tile that holds less than this is a stray island, not a tile.
UDIM_COVERAGE = 0.05
# Islands moved by a whole tile, as is done before baking, lie on those they were moved from; UDIM tiles differ.
UDIM_LIKENESS = 0.5


def measure_mapping(
    triangles: NDArray[np.float64], size: tuple[int, int], surface: NDArray[np.float64] | None = None
) -> dict[str, bool | int | float | str]:
    """Measures of UV triangles [F, 3, 2] on a texture of (height, width); ``surface`` [F] is their area on the mesh.

    "flipped" is the share of the UV area that is turned against the larger part (mirrored parts). "out_of_range" is
    the share of triangles that leave [0, 1] by more than half a texel. "overlap" is the share of the covered texels
    that several triangles use, "repeats" the mean number of them. "density" is in texels per unit of length on the
    mesh; its spread is the ratio of the 90th to the 10th percentile of the mesh's surface.
    """
    height, width = size
    finite = np.isfinite(triangles).all(axis=(1, 2))
    uv = triangles[finite]
    signed = _signed_area(uv)
    area = np.abs(signed) * height * width  # texels
    low, high = uv.min(axis=(0, 1), initial=np.inf), uv.max(axis=(0, 1), initial=-np.inf)
    if not len(uv):
        low = high = np.zeros(2)
    slack = 0.5 / np.array([width, height])
    leaves = ((uv < -slack) | (uv > 1 + slack)).any(axis=(1, 2))
    count = overlap_count(uv, size)
    used = count[count > 0]
    positive = float(signed[signed > 0].sum())
    total = float(np.abs(signed).sum())
    tiles = _udim_tiles(uv)
    measures: dict[str, bool | int | float | str] = {
        "triangles": len(triangles),
        "not_finite": int((~finite).sum()),
        "degenerate": int((area < DEGENERATE_TEXELS).sum()),
        "flipped": min(positive, total - positive) / total if total > 0 else 0.0,
        "uv_min_u": float(low[0]),
        "uv_min_v": float(low[1]),
        "uv_max_u": float(high[0]),
        "uv_max_v": float(high[1]),
        "out_of_range": float(leaves.mean()) if len(uv) else 0.0,
        "overlap": float((used > 1).mean()) if used.size else 0.0,
        "overlap_max": int(used.max()) if used.size else 0,
        "repeats": float(used.mean()) if used.size else 0.0,
        "udim": tiles > 1,
        "tiles": tiles,
    }
    if surface is not None:
        measures |= _density(area, np.asarray(surface, dtype=np.float64)[finite])
    return measures


def _signed_area(uv: NDArray[np.float64]) -> NDArray[np.float64]:
    (ax, ay), (bx, by) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num((ax * by - ay * bx) / 2, posinf=0.0, neginf=0.0)


def _density(area: NDArray[np.float64], surface: NDArray[np.float64]) -> dict[str, bool | int | float | str]:
    real = (area >= DEGENERATE_TEXELS) & (surface > 0) & np.isfinite(surface)
    if not real.any():
        return {"density": 0.0, "density_spread": 1.0}
    density = np.sqrt(area[real] / surface[real])
    order = np.argsort(density)
    share = np.cumsum(surface[real][order])
    low, middle, high = density[order][np.searchsorted(share, share[-1] * np.array([0.1, 0.5, 0.9]))]
    return {"density": float(middle), "density_spread": float(high / low)}


def _udim_tiles(uv: NDArray[np.float64]) -> int:
    """Number of UDIM tiles that the UV map is laid out in; 1 where it is not.

    UDIM: every island lies within one of the unit squares 0..9 along u, 0.. along v, several squares hold islands,
    and they hold different ones.
    """
    low, high = uv.min(axis=1, initial=np.inf), uv.max(axis=1, initial=-np.inf)
    if not len(uv) or low.min() < -1e-3 or high[:, 0].max() > UDIM_COLUMNS + 1e-3 or high.max() <= 1 + 1e-3:
        return 1
    tile = np.floor((low + high) / 2).astype(np.int64)
    if ((low < tile - 1e-3) | (high > tile + 1 + 1e-3)).any():
        return 1
    names, of_triangle = np.unique(tile, axis=0, return_inverse=True)
    if len(names) > 1000:
        return 1
    masks = [coverage_mask(uv[of_triangle.reshape(-1) == index], UDIM_SIZE) for index in range(len(names))]
    masks = [mask for mask in masks if mask.mean() >= UDIM_COVERAGE]
    different: list[NDArray[np.bool_]] = []
    for mask in masks:
        if all((mask & other).sum() < UDIM_LIKENESS * (mask | other).sum() for other in different):
            different.append(mask)
    return max(len(different), 1)
