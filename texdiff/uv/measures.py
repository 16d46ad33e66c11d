"""Measures of an atlas: colours, islands, what its mask loses at latent size; UV range, overlaps, texel density."""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.uv.coverage import coverage_mask, overlap_count

Measure = bool | int | float | str

# Texels along a side of a latent cell of Stable Diffusion: a dataset is audited before there is a base to ask.
LATENT_CELL = 8
# Less than this many texels of area is no triangle: the rounding of its float32 coordinates is larger.
DEGENERATE_TEXELS = 1e-6
# A UDIM tile is laid out at this size to compare it with its neighbours.
UDIM_SIZE = (64, 64)
UDIM_COLUMNS = 10
# A tile that holds less than this is a stray island, not a tile.
UDIM_COVERAGE = 0.05
# Islands moved by exactly one tile, as is done before baking, lie on those they were moved from, or within them where
# only some were moved; UDIM tiles differ. Intersection over union, and over the smaller of the two.
UDIM_LIKENESS, UDIM_CONTAINED = 0.5, 0.98


def measure(
    texture: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    triangles: NDArray[np.float64] | None = None,
    mesh_area: NDArray[np.float64] | None = None,
) -> dict[str, Measure]:
    """Measures of an atlas by name; plain finite values that go into JSON as they are.

    Shares are of 1. "lost" and "void" are for each way to bring the mask to latent size: which share of the covered
    texels gets no weight there, and which share of the weight falls on texels that are not covered.

    Args:
        texture: uint8 [H, W, 3].
        mask: bool [H, W].
        triangles: float64 [F, 3, 2] in UV units; without them the UV map itself is not measured.
        mesh_area: float64 [F], area of each triangle on the mesh; without it the texel density is not measured.

    Raises:
        ValueError: shapes do not fit.
    """
    mask = np.asarray(mask, dtype=bool)
    if texture.shape != (*mask.shape, 3):
        raise ValueError(f"mask has shape {mask.shape}, texture {texture.shape}; use [H, W] and [H, W, 3]")
    height, width = mask.shape
    digest = hashlib.sha256(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(texture).data)  # without a copy
    measures: dict[str, Measure] = {
        "height": height,
        "width": width,
        "square": height == width,
        "coverage": float(mask.mean()),
        "texture_sha256": digest.hexdigest(),
    }
    measures |= _colours(texture, mask)
    measures |= _latent(mask)
    if triangles is not None:
        measures |= _uv_map(np.asarray(triangles, dtype=np.float64), (height, width), mesh_area)
    return measures


def _colours(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, Measure]:
    """Contrast: RMS distance from the mean colour, per channel, in 8-bit levels."""
    inside, outside = np.zeros((2, 1 << 24), dtype=bool)  # which colours are met, 0xRRGGBB
    for top in range(0, len(texture), 256):  # in bands: as 32-bit numbers all of a large texture needs gigabytes
        band, here = texture[top : top + 256], mask[top : top + 256]
        code = band.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        inside[code[here]] = True
        outside[code[~here]] = True
    found = np.flatnonzero(outside)
    return {
        "contrast": _contrast(texture, mask),
        "colours": int(np.count_nonzero(inside)),
        "void_contrast": _contrast(texture, ~mask),
        "void_colours": len(found),
        "void_constant": len(found) == 1,
        "void_colour": f"#{int(found[0]):06x}" if len(found) == 1 else "",
    }


def _contrast(texture: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    if not where.any():
        return 0.0
    _, deviation = cv2.meanStdDev(texture, mask=where.astype(np.uint8))
    return float(np.sqrt(np.mean(np.square(deviation))))


def _latent(mask: NDArray[np.bool_]) -> dict[str, Measure]:
    """Islands (texels that touch, corners too), and what each mask at latent size makes of them."""
    # Cells that the image ends in are taken as far as they go.
    height, width = mask.shape
    rows, columns = -(-height // LATENT_CELL), -(-width // LATENT_CELL)
    padded = np.zeros((rows * LATENT_CELL, columns * LATENT_CELL), dtype=bool)
    padded[:height, :width] = mask
    cells = padded.reshape(rows, LATENT_CELL, columns, LATENT_CELL)
    covered = cells.sum(axis=(1, 3))  # texels
    sides = [np.minimum(LATENT_CELL, size - np.arange(0, size, LATENT_CELL)) for size in (height, width)]
    texels = sides[0][:, None] * sides[1]
    middle = LATENT_CELL // 2
    weights: dict[str, NDArray[np.floating] | NDArray[np.bool_]] = {
        "nearest": cells[:, 0, :, 0],
        "nearest_exact": cells[:, middle, :, middle],
        "area": covered / texels,
        "any": covered > 0,
        "all": covered == texels,
    }
    islands, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    seen = np.unique(labels[::LATENT_CELL, ::LATENT_CELL])
    measures: dict[str, Measure] = {
        "islands": islands - 1,
        "islands_lost": int(islands - 1 - np.count_nonzero(seen)),  # at latent size, by "nearest"
    }
    total = max(int(covered.sum()), 1)
    for mode, weight in weights.items():
        kept, given = float((covered * weight).sum()), float((texels * weight).sum())
        measures[f"latent_lost_{mode}"] = 1 - kept / total
        measures[f"latent_void_{mode}"] = 1 - kept / given if given else 0.0
    return measures


def _uv_map(
    triangles: NDArray[np.float64], size: tuple[int, int], mesh_area: NDArray[np.float64] | None = None
) -> dict[str, Measure]:
    """Measures of UV triangles [F, 3, 2] on a texture of (height, width); ``mesh_area`` [F] is their area on the mesh.

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
    measures: dict[str, Measure] = {
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
    if mesh_area is not None:
        measures |= _density(area, np.asarray(mesh_area, dtype=np.float64)[finite])
    return measures


def _signed_area(uv: NDArray[np.float64]) -> NDArray[np.float64]:
    (ax, ay), (bx, by) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    with np.errstate(over="ignore", invalid="ignore"):
        return np.nan_to_num((ax * by - ay * bx) / 2, posinf=0.0, neginf=0.0)


def _density(area: NDArray[np.float64], mesh_area: NDArray[np.float64]) -> dict[str, Measure]:
    real = (area >= DEGENERATE_TEXELS) & (mesh_area > 0) & np.isfinite(mesh_area)
    if not real.any():
        return {"density": 0.0, "density_spread": 1.0}
    density = np.sqrt(area[real] / mesh_area[real])
    order = np.argsort(density)
    share = np.cumsum(mesh_area[real][order])
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
        if not any(_alike(mask, other) for other in different):
            different.append(mask)
    return max(len(different), 1)


def _alike(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    both = (mask & other).sum()
    contained = both >= UDIM_CONTAINED * min(mask.sum(), other.sum())
    return bool(contained or both >= UDIM_LIKENESS * (mask | other).sum())
