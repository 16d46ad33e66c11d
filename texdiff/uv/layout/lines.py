"""The edges of a UV map as lines of a texel's width."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from texdiff.uv.raster import FAR, MAX_TILES, check_triangles

_CHUNK = 1 << 20  # points worked on at once


def line_map(triangles: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Texels on the edges of UV triangles: along an edge's longer axis one in every row or column, without gaps.

    Args:
        triangles: float [F, 3, 2] in UV units, v up. Those that leave [0, 1] wrap around; those with a coordinate that
            is not finite or beyond FAR, and edges over more than MAX_TILES tiles, are left out.
        size: (height, width) of the texture in texels.

    Returns:
        bool [H, W], row 0 = v near 1.

    Raises:
        ValueError: shapes or size are not as described.
    """
    uv, height, width = check_triangles(triangles, size)
    uv = uv[(np.abs(uv) <= FAR).all(axis=(1, 2))]
    inside = np.repeat(((uv >= 0) & (uv <= 1)).all(axis=(1, 2)), 3)
    texels = np.stack([uv[..., 0] * width, (1 - uv[..., 1]) * height], axis=-1)  # x right, y down
    start, along = texels.reshape(-1, 2), (np.roll(texels, -1, axis=1) - texels).reshape(-1, 2)
    longest = np.abs(along).max(axis=1)
    drawn = np.flatnonzero(longest <= MAX_TILES * max(height, width))
    steps = np.maximum(np.ceil(longest[drawn]), 1).astype(np.int64)
    lit = np.zeros((height, width), bool)
    ends = np.cumsum(steps)
    for begin in range(0, int(ends[-1]) if len(ends) else 0, _CHUNK):
        point = np.arange(begin, min(begin + _CHUNK, int(ends[-1])))
        number = np.searchsorted(ends, point, side="right")
        edge, share = drawn[number], (point - (ends - steps)[number] + 0.5) / steps[number]
        column, row = np.floor(start[edge] + share[:, None] * along[edge]).astype(np.int64).T
        # What ends at 1 ends in the last texel; what goes on comes round.
        column = np.where(inside[edge], np.clip(column, 0, width - 1), column % width)
        row = np.where(inside[edge], np.clip(row, 0, height - 1), row % height)
        lit[row, column] = True
    return lit
