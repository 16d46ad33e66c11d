"""Triangles from polygons, concave ones too."""

import mapbox_earcut
import numpy as np
from numpy.typing import NDArray

MAX_CORNERS = 100_000  # a polygon of more is cut as a fan in any case: a hostile one takes 12 s at this many


def triangulate(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Corner numbers of the triangles that make up polygons of the same number of corners.

    Convex polygons are cut into a fan from corner 0. A fan of a concave polygon would reach outside of it, so those
    are cut ear by ear (Meisters, "Polygons have ears", 1975), except where that fails: a polygon that crosses itself.

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
        ears = mapbox_earcut.triangulate_float64(_project(points[index], normal[index]), np.array([corners], np.uint32))
        if not len(ears):
            continue
        used = np.unique(ears)
        # What it drops, corners on a straight line, makes triangles without area: the UV map may bend there.
        dropped = np.setdiff1d(np.arange(corners), used)
        before = used[np.searchsorted(used, dropped) - 1]
        flat = np.stack([before, dropped, (dropped + 1) % corners], axis=1)
        cut = np.concatenate([ears.reshape(-1, 3), flat])
        if len(cut) == corners - 2:
            result[index] = cut
    return result


def triangulate_polygons(
    points: NDArray[np.float64], starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Triangles from polygons of any number of corners; those of fewer than three give none.

    Args:
        points: float64 [C, 3], all corners of all polygons.
        starts: int64 [P], number of each polygon's first corner.
        lengths: int64 [P], how many it has.

    Returns:
        Numbers of corners, int64 [T, 3], and the polygon of each triangle, [T], in the order of the polygons.
    """
    triangles, polygons = [np.zeros((0, 3), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for n in np.unique(lengths[lengths >= 3]):
        which = np.flatnonzero(lengths == n)
        rows = starts[which][:, None] + np.arange(n)
        cut = triangulate(points[rows])
        triangles.append(np.take_along_axis(rows[:, None], cut, axis=2).reshape(-1, 3))
        polygons.append(np.repeat(which, n - 2))
    of_polygon = np.concatenate(polygons)
    order = np.argsort(of_polygon, kind="stable")
    return np.concatenate(triangles)[order], of_polygon[order]


def _project(points: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polygon seen along its normal, counter-clockwise: [n, 2]."""
    drop = int(np.argmax(np.abs(normal)))
    flat = np.delete(points, drop, axis=1)
    # Leaving out y swaps the handedness of the two axes that stay.
    return np.ascontiguousarray(flat if (normal[drop] > 0) == (drop != 1) else flat[:, ::-1])
