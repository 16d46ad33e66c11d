"""Scan conversion of UV triangles, with the texture repeating.

A triangle becomes one horizontal span of texels per row; a span becomes a step up where it starts and a step down
where it ends; one running sum along the rows turns all of them into the count on every texel. The work grows with
the heights of the triangles, not with their areas, and texture wrapping (REPEAT) is a modulo on rows and spans: tile
borders lie on texel borders, so nothing has to be cut. Steps are integers, so what goes up comes down to 0 exactly.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mode = Literal["center", "conservative"]

# A triangle taller than this many tiles is worked through by columns instead of rows.
MAX_TILES = 64
# (triangle, row) pairs worked on at once: about 100 bytes each, so that a chunk stays in the processor's cache.
CHUNK_PAIRS = 1 << 16
# A disc of this radius, in tiles, contains an upright unit square, which under REPEAT is the whole texture.
FULL_TILE_RADIUS = float(np.sqrt(0.5))
# Coordinates are clipped here, far beyond any texture, so that they fit an integer.
FAR = float(1 << 45)


Corner = tuple[NDArray[np.float64], NDArray[np.float64]]  # x [F] and y [F] of one corner of every triangle


class Group(NamedTuple):
    """Triangles that are drawn in the same way."""

    numbers: NDArray[np.intp]  # [G] among all triangles
    uv: NDArray[np.float64]  # [G, 3, 2]
    wrapped: bool  # some reach outside [0, 1]
    by_columns: bool = False  # spans run along columns instead of rows


class Spans(NamedTuple):
    """Texels ``start <= column < end`` of a row, unwrapped, and the triangle's number in its group. All [n]."""

    owner: NDArray[np.intp]
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]


def check_triangles(triangles: ArrayLike, size: tuple[int, int]) -> tuple[NDArray[np.float64], int, int]:
    """Triangles as float64 [F, 3, 2], height and width; ValueError where they are something else."""
    height, width = (int(side) for side in size)
    if height < 1 or width < 1:
        raise ValueError(f"size is {tuple(size)}; use a (height, width) of at least 1")
    uv = np.asarray(triangles, dtype=np.float64)
    if uv.ndim != 3 or uv.shape[1:] != (3, 2):
        raise ValueError(f"triangles have shape {uv.shape}; use [F, 3, 2]")
    return uv, height, width


def sort_triangles(uv: NDArray[np.float64]) -> tuple[list[Group], Group, NDArray[np.float64]]:
    """Sort triangles [F, 3, 2] by the way in which they are drawn.

    Triangles with a coordinate that is not finite are left out.

    Returns:
        The groups to draw; the giants, which reach over more than MAX_TILES tiles both ways and are not to be drawn;
        and how often each giant covers the whole texture, by its area, float64 [N]: 0 where it is too thin to hold a
        whole tile, since no meaningful UV map has such a triangle.
    """
    low, high = (pick(pick(uv[:, 0], uv[:, 1]), uv[:, 2]) for pick in (np.minimum, np.maximum))  # [F, 2], NaN stays
    inside = ((low >= 0) & (high <= 1)).all(axis=1)
    if inside.all():
        giants = Group(np.zeros(0, np.intp), np.zeros((0, 3, 2)), wrapped=True)
        return [Group(np.arange(len(uv)), uv, wrapped=False)], giants, np.zeros(0)
    others = np.flatnonzero((np.isfinite(low) & np.isfinite(high)).all(axis=1) & ~inside)
    groups = [Group(np.flatnonzero(inside), uv[inside], wrapped=False)]
    uv, low, high = (np.clip(values[others], -FAR, FAR) for values in (uv, low, high))
    far = (np.maximum(np.abs(low), np.abs(high)) > MAX_TILES).any(axis=1)
    # Back to the neighbourhood of the first tile, by whole tiles, to keep the fractions' digits.
    uv[far] -= np.floor(low[far])[:, None]
    wide, tall = ((high - low) > MAX_TILES).T
    groups.append(Group(others[~tall], uv[~tall], wrapped=True))
    groups.append(Group(others[tall & ~wide], uv[tall & ~wide], wrapped=True, by_columns=True))
    giant = tall & wide
    return groups, Group(others[giant], uv[giant], wrapped=True), _repeats(uv[giant])


def _repeats(uv: NDArray[np.float64]) -> NDArray[np.float64]:
    area, radius = areas_and_radii(uv)
    return np.where(radius >= FULL_TILE_RADIUS, np.minimum(area, 2.0**30), 0.0)


def areas_and_radii(uv: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Area of each triangle [F, 3, 2] in tiles, and the radius of its inscribed circle: float64 [F] each.

    A triangle with a radius of FULL_TILE_RADIUS or more holds a whole tile somewhere.
    """
    sides = np.linalg.norm(uv - np.roll(uv, 1, axis=1), axis=-1)  # [F, 3]
    (ax, ay), (bx, by) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    area = np.abs(ax * by - ay * bx) / 2
    return area, 2 * area / sides.sum(axis=1)


def spans_of(group: Group, height: int, width: int, mode: Mode) -> Iterator[Spans]:
    """The group's spans on a texture of height x width, in chunks; by columns the row of a span is a column."""
    uv = group.uv
    xy = [(uv[:, i, 0] * width, (1.0 - uv[:, i, 1]) * height) for i in range(3)]  # texels, x right, y down
    corners = [(y, x) for x, y in xy] if group.by_columns else xy
    return _center_spans(corners) if mode == "center" else _touched_spans(corners)


def draw(
    steps: NDArray[np.signedinteger],
    group: Group,
    mode: Mode = "center",
    weight: NDArray[np.signedinteger] | None = None,
) -> None:
    """Write the triangles of a group into the differences ``steps`` along the lines of a texture.

    Args:
        steps: [height, width + 1], or [width, height + 1] by columns, to be changed. Its last column takes the ends
            of the spans that reach the border.
        weight: what each triangle of the group adds to the texels it covers, [G] of the steps' type; 1 by default.
    """
    lines, length = steps.shape[0], steps.shape[1] - 1
    width, height = (lines, length) if group.by_columns else (length, lines)
    flat = steps.reshape(-1)
    one = steps.dtype.type(1)  # of the same type: several times as fast
    for owner, row, start, end in spans_of(group, height, width, mode):
        value = one if weight is None else weight.take(owner)
        if group.wrapped:
            _add_wrapped(flat, lines, length, (row, start, end), value)
            continue
        if mode == "conservative":  # what lies on the border, or a rounding beyond, touches the border's texel
            row, start, end = np.minimum(row, lines - 1), np.clip(start, 0, length - 1), np.clip(end, 1, length)
        base = row * (length + 1)
        np.add.at(flat, base + start, value)
        np.add.at(flat, base + end, -value)


def _add_wrapped(
    flat: NDArray[np.signedinteger],
    height: int,
    width: int,
    spans: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    value: NDArray[np.signedinteger] | np.signedinteger,
) -> None:
    """The same for spans that leave the texture: rows and columns are taken modulo its sides."""
    row, start, end = spans
    base = row % height * (width + 1)
    rounds, rest = np.divmod(end - start, width)
    start = start % width
    end = start + rest
    over = end > width
    np.add.at(flat, base, (np.minimum(rounds, 1 << 30) + over) * value)
    np.add.at(flat, base + start, value)
    np.add.at(flat, base + np.where(over, end - width, end), -value)


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


def _center_spans(corners: list[Corner]) -> Iterator[Spans]:
    """Texels whose centre is inside, with the half-open rule: top and left edges belong to a triangle."""
    a, b, c = _by_y(corners)
    # Cut at the middle corner into an upper and a lower half; each lies between the long edge and one short edge.
    # An edge is always followed from its upper end: both triangles at an edge compute the same crossings.
    top, middle, bottom = (np.ceil(y - 0.5).astype(np.int64) for _, y in (a, b, c))
    first, count = np.concatenate([top, middle]), np.concatenate([middle - top, bottom - middle])
    some = np.flatnonzero(count)
    slopes = [_slope(a, b), _slope(b, c), _slope(a, c)]
    short = [np.concatenate(pair)[some] for pair in ((a[0], b[0]), (a[1], b[1]), slopes[:2])]  # x, y, dx/dy
    long = [np.concatenate([value, value])[some] for value in (a[0], a[1], slopes[2])]
    owner = np.concatenate([np.arange(len(middle))] * 2)[some]
    for index, row in _pairs(first[some], count[some]):
        y = row + 0.5
        p, q = (x.take(index) + (y - y0.take(index)) * slope.take(index) for x, y0, slope in (short, long))
        left, right = np.minimum(p, q), np.maximum(p, q)
        start, end = (np.ceil(np.clip(x, -FAR, FAR) - 0.5).astype(np.int64) for x in (left, right))
        yield Spans(owner.take(index), row, start, end)


def _by_y(corners: list[Corner]) -> list[Corner]:
    """The corners of each triangle from top to bottom."""
    sorted_corners = list(corners)
    for i, j in ((0, 1), (1, 2), (0, 1)):
        (x, y), (x2, y2) = sorted_corners[i], sorted_corners[j]
        swap = y > y2
        sorted_corners[i] = np.where(swap, x2, x), np.where(swap, y2, y)
        sorted_corners[j] = np.where(swap, x, x2), np.where(swap, y, y2)
    return sorted_corners


def _slope(upper: Corner, lower: Corner) -> NDArray[np.float64]:
    """dx/dy of edges; 0 for flat ones, whose slope is not used."""
    rise = lower[1] - upper[1]
    return np.divide(lower[0] - upper[0], rise, out=np.zeros_like(rise), where=rise > 1e-200)


def _touched_spans(corners: list[Corner]) -> Iterator[Spans]:
    """Texels whose inside the closed triangle meets: its extent within each row's band ``row <= y <= row + 1``."""
    # Adding and taking away 1 rounds heights near 0 to about 1e-16: no edge is so flat that its slope overflows.
    clipped = [(np.clip(x, -FAR, FAR), np.clip(y, -FAR, FAR) + 1.0 - 1.0) for x, y in corners]
    a, b, c = _by_y(clipped)
    first = np.floor(a[1]).astype(np.int64)
    count = np.maximum(np.ceil(c[1]).astype(np.int64) - first, 1)
    slopes = [_slope(a, b), _slope(b, c), _slope(a, c)]
    for index, row in _pairs(first, count):
        (ax, ay), (bx, by), (cx, cy) = ((x.take(index), y.take(index)) for x, y in (a, b, c))
        ab, bc, ac = (slope.take(index) for slope in slopes)
        left, right = np.full(row.shape, np.inf), np.full(row.shape, -np.inf)
        # The triangle's piece in the band is convex: its extreme points lie on the piece's upper and lower border ...
        for y, flat in ((np.maximum(row, ay), ax), (np.minimum(row + 1, cy), cx)):
            on_long = np.where(cy > ay, ax + (y - ay) * ac, flat)
            upper = np.where(by > ay, ax + (y - ay) * ab, bx)
            lower = np.where(cy > by, bx + (y - by) * bc, bx)
            on_short = np.where(y < by, upper, lower)
            left = np.minimum(left, np.minimum(on_long, on_short))
            right = np.maximum(right, np.maximum(on_long, on_short))
        middle = (row <= by) & (by <= row + 1)  # ... or at the middle corner
        np.minimum(left, bx, out=left, where=middle)
        np.maximum(right, bx, out=right, where=middle)
        start = np.floor(left).astype(np.int64)
        yield Spans(index, row, start, np.maximum(np.ceil(right).astype(np.int64), start + 1))
