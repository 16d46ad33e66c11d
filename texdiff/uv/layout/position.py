"""What lies under each texel of a texture: maps of position and normal in UV space, to condition a model on.

Both are drawn at the size at which they are used, at texel centres, and never resized: a mean over a border would lie
inside the object. The void is 0 exactly, so the UV mask is in them.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from texdiff.uv.coverage import coverage_mask
from texdiff.uv.layout.winner import rank_triangles
from texdiff.uv.raster import FULL_TILE_RADIUS, Group, Spans, areas_and_radii, check_triangles, sort_triangles, spans_of

Floats = NDArray[np.float64]

SCALE = 0.9
"""Half of the longest side of the object's box in the cube from -1 to 1, so that the surface lies in [0.05, 0.95]."""
# Texels worked on at once, so that a chunk stays in the processor's cache.
_CHUNK_TEXELS = 1 << 15
# Triangles that leave the texture drawn at first; then twice as many.
_FIRST = 32
_VOID = np.iinfo(np.int32).max


def position_map(
    uv: ArrayLike, positions: ArrayLike, size: tuple[int, int], bounds: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Where on the object each texel lies.

    The middle of the bounds is (0.5, 0.5, 0.5), and their longest side reaches from 0.05 to 0.95, as all sides keep
    their proportions. Axes are those of `positions`. Where islands overlap the one with the largest area on the mesh is
    seen (see ``rank_triangles``); texture coordinates wrap around.

    Args:
        uv: float [F, 3, 2] in UV units, v up, as for ``coverage_mask``.
        positions: float [F, 3, 3], the triangles' corners in object space. A triangle with a coordinate that is not
            finite lies in the middle.
        size: (height, width) of the texture in texels.
        bounds: float [2, 3], lowest and highest corner of the whole object, of which these triangles may be a part;
            None for those of `positions`.

    Returns:
        float32 [H, W, 3], row 0 = v near 1; 0 exactly on texels that ``coverage_mask`` leaves out.

    Raises:
        ValueError: shapes, size or bounds are not as described.
    """
    corners = _corners(positions, uv, "positions")
    low, high = bounds_of(corners) if bounds is None else np.asarray(bounds, dtype=np.float64)
    if np.shape(low) != (3,) or not (np.isfinite([low, high]).all() and (low <= high).all()):
        raise ValueError("bounds must be [2, 3]: the lowest and the highest corner, finite")
    half = float((high - low).max()) / 2
    with np.errstate(all="ignore"):
        placed = (corners - (low + high) / 2) * ((SCALE / half) if half > 0 else 0.0) / 2 + 0.5
    placed[~np.isfinite(placed).all(axis=(1, 2))] = 0.5
    triangles, _, _ = check_triangles(uv, size)
    values, covered = _interpolate(triangles, placed, rank_triangles(triangles, corners), size)
    if len(placed):  # rounding may leave a thin triangle's range
        np.clip(values, placed.min(), placed.max(), out=values)
    values[~covered] = 0
    return values


def normal_map(
    uv: ArrayLike, normals: ArrayLike, size: tuple[int, int], positions: ArrayLike | None = None
) -> NDArray[np.float32]:
    """Which way the surface under each texel faces: (n + 1) / 2 of the unit normal in object space.

    Args:
        uv: float [F, 3, 2] in UV units, v up.
        normals: float [F, 3, 3] at the triangles' corners, of any length.
        size: (height, width) of the texture in texels.
        positions: float [F, 3, 3], to choose among overlapping triangles as ``position_map`` does; without, the first.

    Returns:
        float32 [H, W, 3], row 0 = v near 1; 0 exactly on texels that ``coverage_mask`` leaves out, and
        (0.5, 0.5, 0.5) where the normals cancel out or are not finite.

    Raises:
        ValueError: shapes or size are not as described.
    """
    corners = np.nan_to_num(_corners(normals, uv, "normals"), nan=0.0, posinf=0.0, neginf=0.0)
    with np.errstate(all="ignore"):
        corners = np.nan_to_num(corners / np.linalg.norm(corners, axis=2, keepdims=True))
    triangles, _, _ = check_triangles(uv, size)
    if positions is None:
        rank = np.arange(len(corners), 0, -1, dtype=np.int32)
    else:
        rank = rank_triangles(triangles, _corners(positions, uv, "positions"))
    values, covered = _interpolate(triangles, corners, rank, size)
    length = np.linalg.norm(values, axis=2, keepdims=True)
    values = np.divide(values, length, out=np.zeros_like(values), where=length > 1e-6) / 2 + 0.5
    values[~covered] = 0
    return values


def bounds_of(corners: Floats) -> Floats:
    """Lowest and highest corner, float64 [2, 3], of the triangles [F, 3, 3] whose coordinates are all finite; zeros
    where there is none."""
    sound = corners[np.isfinite(corners).all(axis=(1, 2))].reshape(-1, 3)
    return np.stack([sound.min(axis=0), sound.max(axis=0)]) if len(sound) else np.zeros((2, 3))


def _corners(values: ArrayLike, uv: ArrayLike, name: str) -> Floats:
    corners = np.asarray(values, dtype=np.float64)
    if corners.shape != (len(np.asarray(uv)), 3, 3):
        raise ValueError(f"{name} have shape {corners.shape}; use [{len(np.asarray(uv))}, 3, 3]")
    return corners


def _interpolate(
    triangles: Floats, corners: Floats, rank: NDArray[np.int32], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Values at the corners of UV triangles, linearly between them: at the centre of each texel that of the covering
    triangle with the highest rank.

    Args:
        triangles: [F, 3, 2] in UV units.
        corners: [F, 3, K], finite.
        rank: [F], a permutation of 1 to F.
        size: (height, width).

    Returns:
        float32 [H, W, K], and which texels have a triangle, bool [H, W].
    """
    height, width = size
    values = np.zeros((height * width, corners.shape[2]), np.float32)
    top = np.zeros(height * width, np.int32)  # 0 stands for no triangle
    lowest = _draw_tiled(triangles, corners, rank, top, values, (height, width))
    above = np.flatnonzero(rank > lowest)
    if len(above) < len(triangles) or ((triangles < 0) | (triangles > 1)).any():
        top[~coverage_mask(triangles, size).reshape(-1)] = _VOID
    groups = [
        group._replace(numbers=above[group.numbers]) for group in sort_triangles(triangles[above])[0] if len(group.uv)
    ]
    for group in groups:
        for batch in _by_rank(group, rank):
            ranks = rank[batch.numbers]
            for owner, texel, _, _ in _texels(batch, ranks, top, height, width):
                np.maximum.at(top, texel, ranks[owner])
    top[top == _VOID] = 0
    seen = np.zeros(len(triangles) + 1, bool)
    seen[top] = True
    for group in groups:
        visible = seen[rank[group.numbers]]
        group = group._replace(numbers=group.numbers[visible], uv=group.uv[visible])
        ranks, origin, value, slopes = rank[group.numbers], *_planes(group, corners, height, width)
        for owners, texel, x, y in _texels(group, ranks, top, height, width):
            here = np.flatnonzero(top[texel] == ranks[owners])
            owner = owners[here]
            dx, dy = x[here] - origin[0][owner], y[here] - origin[1][owner]
            for k in range(corners.shape[2]):
                values[texel[here], k] = value[k][owner] + dx * slopes[0][k][owner] + dy * slopes[1][k][owner]
    return values.reshape(height, width, -1), (top > 0).reshape(height, width)


def _by_rank(group: Group, rank: NDArray[np.int32]) -> Iterator[Group]:
    """The group in parts, of triangles that leave the texture first the highest-ranked few, then more and more: where
    a texture is repeated hundreds of times, these cover it, and hide the rest."""
    if not group.wrapped:
        yield group
        return
    order = np.argsort(-rank[group.numbers])
    begin, count = 0, _FIRST
    while begin < len(order):
        some = order[begin : begin + count]
        yield group._replace(numbers=group.numbers[some], uv=group.uv[some])
        begin, count = begin + count, 2 * count


def _draw_tiled(
    triangles: Floats,
    corners: Floats,
    rank: NDArray[np.int32],
    top: NDArray[np.int32],
    values: NDArray[np.float32],
    size: tuple[int, int],
) -> int:
    """Fill the texture from the highest-ranked triangle that holds a whole tile, if there is one: the repeat around its
    incentre. Returns its rank, below which nothing can be seen; else 0."""
    with np.errstate(all="ignore"):
        fat = areas_and_radii(triangles)[1] >= FULL_TILE_RADIUS
    fat &= np.isfinite(triangles).all(axis=(1, 2))
    if not fat.any():
        return 0
    height, width = size
    number = int(np.flatnonzero(fat)[rank[fat].argmax()])
    group = Group(np.array([number]), triangles[[number]], wrapped=True)
    (x0, y0), value, slopes = _planes(group, corners, height, width)
    corners_uv = triangles[number]
    opposite = np.linalg.norm(np.roll(corners_uv, 1, axis=0) - np.roll(corners_uv, 2, axis=0), axis=-1)  # sides, [3]
    middle = (opposite[:, None] * corners_uv).sum(axis=0) / opposite.sum()  # incentre
    left, upper = np.floor((middle[0] - 0.5) * width), np.floor((0.5 - middle[1]) * height)
    row, column = upper + np.arange(height), left + np.arange(width)
    texel = (row[:, None] % height * width + column % width).astype(np.int64).reshape(-1)
    for k in range(corners.shape[2]):
        plane = value[k] + (column + 0.5 - x0) * slopes[0][k] + (row[:, None] + 0.5 - y0) * slopes[1][k]
        values[texel, k] = plane.reshape(-1)
    top[:] = rank[number]
    return int(rank[number])


def _planes(
    group: Group, corners: Floats, height: int, width: int
) -> tuple[tuple[Floats, Floats], list[Floats], tuple[list[Floats], list[Floats]]]:
    """Each triangle's values as planes over texels: x and y [G] of its middle, the values [K] x [G] there, and their
    slopes [K] x [G] along x and along y."""
    x, y = group.uv[..., 0] * width, (1.0 - group.uv[..., 1]) * height  # [G, 3]
    (dx1, dx2), (dy1, dy2) = ((side[:, 1:] - side[:, :1]).T for side in (x, y))
    value = corners[group.numbers]
    first, second = value[:, 1] - value[:, 0], value[:, 2] - value[:, 0]  # [G, K]
    twice = dx1 * dy2 - dx2 * dy1
    inverse = np.divide(1.0, twice, out=np.zeros_like(twice), where=np.abs(twice) > 1e-30)[:, None]
    along_x = (first * dy2[:, None] - second * dy1[:, None]) * inverse
    along_y = (second * dx1[:, None] - first * dx2[:, None]) * inverse
    middle = value.mean(axis=1)
    origin = x.mean(axis=1), y.mean(axis=1)
    return origin, list(middle.T.copy()), (list(along_x.T.copy()), list(along_y.T.copy()))


def _texels(
    group: Group, ranks: NDArray[np.int32], top: NDArray[np.int32], height: int, width: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], Floats, Floats]]:
    """(number of the triangle in the group, number of the texel, x and y of its centre where the triangle lies), [n]
    each, for every texel whose centre a triangle covers. Lines of the texture on which `top` is higher everywhere are
    left out."""
    lines, length = (width, height) if group.by_columns else (height, width)
    lowest = top.reshape(height, width).min(axis=0 if group.by_columns else 1)
    for spans in spans_of(group, height, width, "center"):
        if group.wrapped:
            here = np.flatnonzero(ranks[spans.owner] >= lowest[spans.row % lines])
            spans = Spans(*(values[here] for values in spans))
        for owner, row, column in _expand(spans, length, group.wrapped):
            line, along = (column, row) if group.by_columns else (row, column)
            texel = np.asarray(line % height * width + along % width, np.int64)
            yield owner, texel, np.asarray(along + 0.5), np.asarray(line + 0.5)


def _expand(
    spans: Spans, length: int, wrapped: bool
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]]:
    """Owner, row and column of every texel of the spans, in chunks of bounded size. Of a span that goes round the
    texture more than once, the first round."""
    count = spans.end - spans.start
    if wrapped:
        count = np.minimum(count, length)
    ends = np.cumsum(count)
    cuts = np.searchsorted(ends, np.arange(_CHUNK_TEXELS, (ends[-1] if len(ends) else 0), _CHUNK_TEXELS), side="right")
    cuts = np.unique(np.concatenate([[0], cuts, [len(count)]]))
    for begin, end in pairwise(cuts):
        some = count[begin:end]
        total = int(some.sum())
        if total:
            before = np.repeat(np.cumsum(some) - some - spans.start[begin:end], some)
            owner, row = np.repeat(spans.owner[begin:end], some), np.repeat(spans.row[begin:end], some)
            yield owner, row, np.arange(total) - before
