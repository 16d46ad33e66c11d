"""Which of the triangles that share a texel is seen: the one whose island has the most surface."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Corners that differ by less, in UV units and as a share of the mesh's extent, are mostly seen as one.
_SAME = 2.0**-20


def rank_triangles(uv: Floats, corners: Floats) -> NDArray[np.int32]:
    """An order of the triangles: 1 is hidden by all others that share its texels, F by none. int32 [F].

    Of two islands the one with the larger area on the mesh is seen, inside an island the larger triangle; of those of
    much the same area (see ``size_class``) the first.

    Args:
        uv: float64 [F, 3, 2] in UV units.
        corners: float64 [F, 3, 3], where the triangles lie on the mesh.
    """
    areas = triangle_areas(corners)
    island = islands(uv, corners)
    surface = np.bincount(island, areas).astype(np.float64)
    largest = size_class(surface, float(surface.max(initial=0.0)))[island]
    order = np.lexsort((-np.arange(len(uv)), size_class(areas, float(areas.max(initial=0.0))), -island, largest))
    rank = np.empty(len(uv), np.int32)
    rank[order] = np.arange(1, len(uv) + 1, dtype=np.int32)
    return rank


def islands(uv: Floats, corners: Floats) -> NDArray[np.int64]:
    """The island of each triangle, int64 [F], numbered in the order of their first triangles.

    Two triangles belong together where they have a corner in common both on the mesh and in the UV map, and go round
    the same way there: of mirrored halves that meet in the middle of the mesh, each is an island.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    with np.errstate(all="ignore"):
        side = uv[:, 1:] - uv[:, :1]
        way = np.sign(np.nan_to_num(side[:, 0, 0] * side[:, 1, 1] - side[:, 0, 1] * side[:, 1, 0]))
        finite = corners[np.isfinite(corners).all(axis=(1, 2))]
        extent = float(np.ptp(finite.reshape(-1, 3), axis=0).max()) if len(finite) else 0.0
        place = np.concatenate([uv, corners / (extent or 1.0)], axis=2) / _SAME
    cells = np.rint(np.nan_to_num(np.clip(place, -(2.0**60), 2.0**60))).astype(np.int64)  # [F, 3, 5]
    # One number for a corner; that two have it by chance is as good as impossible, and would join two islands.
    factors = np.random.default_rng(0).integers(-(2**62), 2**62, 6) * 2 + 1
    key = cells @ factors[:5] + (way.astype(np.int64) * factors[5])[:, None]
    corner = np.unique(key, return_inverse=True)[1].reshape(-1, 3)
    joined = coo_array((np.ones(2 * len(uv)), (corner[:, :2].ravel(), corner[:, 1:].ravel())), 2 * (corner.size,))
    label = connected_components(joined, directed=False)[1][corner[:, 0]]
    _, first, island = np.unique(label, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[island].astype(np.int64)


def triangle_areas(corners: Floats) -> Floats:
    """Area of each triangle, [F] for [F, 3, 3]; 0 where it is not finite."""
    with np.errstate(all="ignore"):
        cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        return np.nan_to_num(np.linalg.norm(cross, axis=1) / 2, nan=0.0, posinf=0.0)


def size_class(areas: Floats, unit: float) -> Floats:
    """Areas [N] in sixteenths of an octave from `unit`, rounded.

    So that islands of the same area, such as two mirrored halves that share their texels, are not told apart by
    rounding.
    """
    with np.errstate(all="ignore"):
        return np.rint(16 * np.log2(np.maximum(areas / unit if unit > 0 else areas, 1e-300)))
