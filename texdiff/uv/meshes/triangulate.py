"""Triangles from polygons, concave ones too."""

import numpy as np
from numpy.typing import NDArray

# Cutting ears takes time with the square of the corners; a polygon of more corners is cut as a fan in any case.
MAX_CORNERS = 2000


def triangulate(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Corner numbers of the triangles that make up polygons of the same number of corners.

    Convex polygons are cut into a fan from corner 0. A fan of a concave polygon would reach outside of it, so those
    are cut ear by ear (Meisters, "Polygons have ears", 1975), unless they have more than MAX_CORNERS corners.

    Args:
        points: float64 [P, n, 3], n >= 3.

    Returns:
        int64 [P, n - 2, 3], numbers in 0..n-1.
    """
    count, corners = points.shape[:2]
    fan = np.stack([np.zeros(corners - 2), np.arange(1, corners - 1), np.arange(2, corners)], axis=1).astype(np.int64)
    result = np.repeat(fan[None], count, axis=0)
    if not 3 < corners <= MAX_CORNERS:
        return result
    with np.errstate(over="ignore", invalid="ignore"):  # points may be NaN or huge: those keep the fan
        points = points - points[:, :1]  # digits are scarce far from the origin
        following = np.roll(points, -1, axis=1)
        normal = np.cross(points, following).sum(axis=1)  # Newell: [P, 3]
        turns = np.cross(points - np.roll(points, 1, axis=1), following - points) @ normal[..., None]  # [P, n, 1]
        scale = np.abs(turns).max(axis=(1, 2))
        concave = (turns.min(axis=(1, 2)) < -1e-9 * scale) & np.isfinite(scale)
    for index in np.flatnonzero(concave):
        result[index] = _clip_ears(_flat(points[index], normal[index]), fan)
    return result


def _flat(points: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polygon seen along its normal, counter-clockwise: [n, 2]."""
    drop = int(np.argmax(np.abs(normal)))
    flat = np.delete(points, drop, axis=1)
    # Leaving out y swaps the handedness of the two axes that stay.
    return flat if (normal[drop] > 0) == (drop != 1) else flat[:, ::-1]


def _cross(o: NDArray[np.float64], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the signed area of (o, a, b), over the last axis."""
    return (a[..., 0] - o[..., 0]) * (b[..., 1] - o[..., 1]) - (a[..., 1] - o[..., 1]) * (b[..., 0] - o[..., 0])


def _clip_ears(flat: NDArray[np.float64], fan: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ears of one polygon; where none is left (it crosses itself), the fan."""
    rest = list(range(len(flat)))
    ears: list[tuple[int, int, int]] = []
    while len(rest) > 3:
        for i, here in enumerate(rest):
            before, after = rest[i - 1], rest[(i + 1) % len(rest)]
            a, b, c = flat[before], flat[here], flat[after]
            if _cross(a, b, c) <= 0:
                continue
            # A corner that repeats one of the ear's own points does not block it (bridges to holes do that).
            others = flat[[k for k in rest if k not in (before, here, after)]]
            others = others[~((others == a) | (others == b) | (others == c)).all(axis=1)]
            if not ((_cross(a, b, others) >= 0) & (_cross(b, c, others) >= 0) & (_cross(c, a, others) >= 0)).any():
                ears.append((before, here, after))
                del rest[i]
                break
        else:
            # Only flat corners are left? They make triangles without area; else the polygon crosses itself.
            flat_corner = next((i for i in range(len(rest)) if _cross(*flat[_around(rest, i)]) == 0), None)
            if flat_corner is None:
                return fan
            before, here, after = _around(rest, flat_corner)
            ears.append((before, here, after))
            del rest[flat_corner]
    ears.append((rest[0], rest[1], rest[2]))
    return np.array(ears, dtype=np.int64)


def _around(rest: list[int], i: int) -> list[int]:
    return [rest[i - 1], rest[i], rest[(i + 1) % len(rest)]]
