"""Which texels of a texture a UV map lands on.

A triangle becomes one horizontal span of texels per row; a span becomes +1 where it starts and -1 where it ends; one
running sum along the rows turns all of them into the number of triangles on every texel. The work grows with the
heights of the triangles, not with their areas, and texture wrapping (REPEAT) is a modulo on rows and spans: tile
borders lie on texel borders, so nothing has to be cut.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mode = Literal["center", "conservative"]

# A triangle taller than this many tiles is worked through by columns instead of rows.
MAX_TILES = 64
# (triangle, row) pairs worked on at once: bounds the memory to about 100 bytes times this.
CHUNK_PAIRS = 1 << 19
# A disc of this radius, in tiles, contains an upright unit square, which under REPEAT is the whole texture.
FULL_TILE_RADIUS = float(np.sqrt(0.5))
# Texel coordinates are clipped here, far beyond any texture, so that they fit an integer.
FAR = float(1 << 50)


class Spans(NamedTuple):
    """Texels ``start <= column < end`` of a row, unwrapped. All int64 [n]."""

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


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
    return overlap_count(triangles, size, mode) > 0


def overlap_count(triangles: ArrayLike, size: tuple[int, int], mode: Mode = "center") -> NDArray[np.int32]:
    """How many triangles cover each texel: int32 [H, W]. Arguments and errors as for ``coverage_mask``.

    In "center" mode triangles that share an edge are not counted twice along it, so that a texel with a count above
    1 really is used by more than one place of the mesh (or by one place repeatedly, where the texture is tiled).
    """
    if mode not in ("center", "conservative"):
        raise ValueError(f"mode is {mode!r}; use 'center' or 'conservative'")
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"size is {tuple(size)}; use a (height, width) of at least 1")
    uv = np.asarray(triangles, dtype=np.float64)
    if uv.ndim != 3 or uv.shape[1:] != (3, 2):
        raise ValueError(f"triangles have shape {uv.shape}; use [F, 3, 2]")
    uv = uv[np.isfinite(uv).all(axis=(1, 2))]

    low, high = uv.min(axis=1, initial=np.inf), uv.max(axis=1, initial=-np.inf)  # [F, 2]
    far = (np.maximum(np.abs(low), np.abs(high)) > MAX_TILES).any(axis=1)
    if far.any():  # back to the neighbourhood of the first tile, by whole tiles, to keep the fraction's digits
        uv = uv.copy()
        uv[far] -= np.floor(low[far])[:, None]
    wide, tall = ((high - low) > MAX_TILES).T
    corners = np.stack([uv[..., 0] * width, (1.0 - uv[..., 1]) * height], axis=-1)  # texels, x right, y down

    count = _count(corners[~tall], height, width, mode)
    if tall.any():
        count += _count(corners[tall & ~wide][..., ::-1], width, height, mode).T
        count += _repeats_of_giants(uv[tall & wide])
    return np.minimum(count, np.iinfo(np.int32).max).astype(np.int32)


def _repeats_of_giants(uv: NDArray[np.float64]) -> int:
    """How often triangles that reach over many tiles both ways cover the whole texture, by their areas.

    One that is too thin to hold a whole tile is left out: it can be no part of a UV map that means anything.
    """
    sides = np.linalg.norm(uv - np.roll(uv, 1, axis=1), axis=-1)  # [F, 3]
    (ax, ay), (bx, by) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    area = np.abs(ax * by - ay * bx) / 2
    fat = 2 * area / sides.sum(axis=1) >= FULL_TILE_RADIUS  # radius of the inscribed circle
    return int(np.minimum(area[fat], 2.0**30).sum())


def _count(corners: NDArray[np.float64], height: int, width: int, mode: Mode) -> NDArray[np.int64]:
    """Number of triangles on each texel, int64 [height, width]; corners [F, 3, 2] in texels, x right, y down."""
    steps = np.zeros((height, width + 1), dtype=np.int64)  # last column: ends of spans that reach the border
    for spans in _center_spans(corners) if mode == "center" else _touched_spans(corners):
        _add(steps, spans)
    return np.cumsum(steps, axis=1)[:, :width]


def _add(steps: NDArray[np.int64], spans: Spans) -> None:
    """Write spans into the differences ``steps`` [height, width + 1], wrapped around both ways."""
    height, width = steps.shape[0], steps.shape[1] - 1
    flat = steps.reshape(-1)
    row, start, end = spans
    if row.size == 0:
        return
    if row.min() >= 0 and row.max() < height and start.min() >= 0 and end.max() <= width:
        base = row * (width + 1)
        np.add.at(flat, base + start, 1)
        np.add.at(flat, base + end, -1)
        return
    base = row % height * (width + 1)
    rounds, rest = np.divmod(end - start, width)
    start = start % width
    end = start + rest
    over = end > width
    np.add.at(flat, base, np.minimum(rounds, 1 << 30) + over)
    np.add.at(flat, base + start, 1)
    np.add.at(flat, base + np.where(over, end - width, end), -1)


def _pairs(first: NDArray[np.int64], count: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    """(index, row) for every row ``first <= row < first + count`` of every item, in chunks of bounded size."""
    ends = np.cumsum(count)
    total = int(ends[-1]) if ends.size else 0
    for begin in range(0, total, CHUNK_PAIRS):
        stop = min(begin + CHUNK_PAIRS, total)
        i, j = np.searchsorted(ends, [begin, stop - 1], side="right")
        inside = np.minimum(ends[i : j + 1], stop) - np.maximum(ends[i : j + 1] - count[i : j + 1], begin)
        index = np.repeat(np.arange(i, j + 1), inside)
        yield index, first[index] + np.arange(begin, stop) - (ends - count)[index]


def _center_spans(corners: NDArray[np.float64]) -> Iterator[Spans]:
    """Texels whose centre is inside, with the half-open rule: top and left edges belong to a triangle."""
    order = np.argsort(corners[..., 1], axis=1, kind="stable")
    a, b, c = np.moveaxis(np.take_along_axis(corners, order[..., None], axis=1), 1, 0)  # by y, each [F, 2]
    # Cut at the middle corner into an upper and a lower half; each lies between the long edge and one short edge.
    # An edge is always followed from its upper end: both triangles at an edge compute the same crossings.
    top, bottom = np.concatenate([a, b]), np.concatenate([b, c])  # [2F, 2]
    rows = np.ceil(np.stack([top[:, 1], bottom[:, 1]]) - 0.5).astype(np.int64)
    some = rows[1] > rows[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        short = np.concatenate([top, _slope(top, bottom)], axis=1)[some]  # [n, 3]: x, y, dx/dy
        long = np.concatenate([a, _slope(a, c)], axis=1)
    long = np.concatenate([long, long])[some]
    first = rows[0, some]
    for index, row in _pairs(first, rows[1, some] - first):
        y = row + 0.5
        p, q = (edge[index, 0] + (y - edge[index, 1]) * edge[index, 2] for edge in (short, long))
        start, end = (
            np.ceil(np.clip(x, -FAR, FAR) - 0.5).astype(np.int64) for x in (np.minimum(p, q), np.maximum(p, q))
        )
        yield Spans(row, start, end)


def _slope(upper: NDArray[np.float64], lower: NDArray[np.float64]) -> NDArray[np.float64]:
    return (lower[:, :1] - upper[:, :1]) / (lower[:, 1:] - upper[:, 1:])


def _touched_spans(corners: NDArray[np.float64]) -> Iterator[Spans]:
    """Texels whose inside the closed triangle meets: its extent within each row's band ``row <= y <= row + 1``."""
    corners = np.clip(corners, -FAR, FAR)
    rows = np.floor(corners[..., 1].min(axis=1, initial=FAR)).astype(np.int64)
    last = np.ceil(corners[..., 1].max(axis=1, initial=-FAR)).astype(np.int64)
    for index, row in _pairs(rows, np.maximum(last - rows, 1)):
        left, right = np.full(row.shape, np.inf), np.full(row.shape, -np.inf)
        p = corners[index]  # [n, 3, 2]
        for corner in range(3):
            (x, y), (x2, y2) = p[:, corner].T, p[:, corner - 1].T
            inside = (row <= y) & (y <= row + 1)
            np.minimum(left, x, out=left, where=inside)
            np.maximum(right, x, out=right, where=inside)
            for line in (row, row + 1):
                crosses = (np.minimum(y, y2) < line) & (line < np.maximum(y, y2))
                t = np.divide(line - y, y2 - y, out=np.zeros_like(y), where=crosses)
                crossing = x + t * (x2 - x)
                np.minimum(left, crossing, out=left, where=crosses)
                np.maximum(right, crossing, out=right, where=crosses)
        start = np.floor(left).astype(np.int64)
        yield Spans(row, start, np.maximum(np.ceil(right).astype(np.int64), start + 1))
