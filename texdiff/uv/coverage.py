"""Which texels of a texture a UV map lands on."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from texdiff.uv.raster import Mode, check_triangles, draw, sort_triangles


def coverage_mask(triangles: ArrayLike, size: tuple[int, int], mode: Mode = "center") -> NDArray[np.bool_]:
    """Texels that the UV triangles cover.

    Args:
        triangles: float [F, 3, 2] in UV units, v up: v near 1 is the top row. Coordinates outside [0, 1] wrap around
            (REPEAT). Triangles with a coordinate that is not finite cover nothing.
        size: (height, width) of the texture in texels.
        mode: "center": the texel's centre lies in the triangle, with the half-open rule for centres that lie exactly
            on an edge, so that they belong to one of the two triangles that share the edge. "conservative": the
            triangle touches the inside of the texel.

    Returns:
        bool [H, W], row 0 = v near 1.

    Raises:
        ValueError: shapes, size or mode are not as described.
    """
    return _count(triangles, size, mode) > 0


def overlap_count(triangles: ArrayLike, size: tuple[int, int], mode: Mode = "center") -> NDArray[np.int32]:
    """How many triangles cover each texel: int32 [H, W]. Arguments and errors as for ``coverage_mask``.

    In "center" mode triangles that share an edge are not counted twice along it, so that a texel with a count above
    1 really is used by more than one place of the mesh (or by one place repeatedly, where the texture is tiled).
    """
    count = _count(triangles, size, mode)
    if count.dtype == np.int64:
        count = np.minimum(count, np.iinfo(np.int32).max)
    return count.astype(np.int32)


def _count(triangles: ArrayLike, size: tuple[int, int], mode: Mode) -> NDArray[np.signedinteger]:
    """Number of triangles on each texel, [H, W], in the smallest of three types that holds it."""
    if mode not in ("center", "conservative"):
        raise ValueError(f"mode is {mode!r}; use 'center' or 'conservative'")
    uv, height, width = check_triangles(triangles, size)
    groups, _, repeats = sort_triangles(uv)
    if len(groups) == 1:  # nothing leaves the texture, so no triangle counts twice on a texel
        steps = np.zeros((height, width + 1), dtype=np.int16 if len(uv) < 1 << 15 else np.int32)
        draw(steps, groups[0], mode)
        return np.cumsum(steps, axis=1, dtype=steps.dtype, out=steps)[:, :width]
    rows = np.zeros((height, width + 1), dtype=np.int64)
    columns = np.zeros((width, height + 1), dtype=np.int64)
    for group in groups:
        draw(columns if group.by_columns else rows, group, mode)
    np.cumsum(rows, axis=1, out=rows)  # in place: of the largest textures one such array takes 2 GiB
    np.cumsum(columns, axis=1, out=columns)
    count = rows[:, :width]
    count += columns[:, :height].T
    del columns
    return count + int(repeats.sum())
