"""Bring UV triangles of textures that do not repeat into the repeating form that coverage works on."""

import numpy as np
from numpy.typing import NDArray

# Mirrored textures are folded over at most this many tiles each way; a triangle that reaches further is left out.
MAX_FOLDS = 64


def to_repeating(
    triangles: NDArray[np.float64],
    mesh_area: NDArray[np.float64],
    wrap: tuple[str, str],
    values: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Triangles that show the same texels when the texture repeats.

    Along an axis that repeats they stay as they are. Along one that clamps, what lies outside [0, 1] shows the
    border's texels drawn out; it is cut off. Along one that mirrors they are cut along the tiles' borders, and what
    lies in every other tile is reflected.

    Args:
        triangles: float64 [F, 3, 2] in UV units.
        mesh_area: float64 [F], area on the mesh; shared out among the pieces by their UV areas.
        wrap: "repeat", "clamp" or "mirror" along u and along v.
        values: float64 [F, 3, K] of the corners, such as positions, linear in between; without, K is 0.

    Returns:
        Triangles float64 [G, 3, 2], mesh_area [G] and values [G, 3, K].
    """
    with np.errstate(invalid="ignore"):
        leaves = ((triangles < 0) | (triangles > 1)).any(axis=(1, 2)) & np.isfinite(triangles).all(axis=(1, 2))
    if values is None:
        values = np.zeros((len(triangles), 3, 0))
    if wrap == ("repeat", "repeat") or not leaves.any():
        return triangles, mesh_area, values
    pieces, owner = np.concatenate([triangles[leaves], values[leaves]], axis=2), np.flatnonzero(leaves)
    with np.errstate(invalid="ignore"):
        area = _area(triangles)
    for axis, mode in enumerate(wrap):
        if mode == "clamp":
            for line in (0.0, 1.0):
                pieces, owner = _split(pieces, owner, axis, line)
            middle = pieces[..., axis].mean(axis=1)
            inside = (middle >= 0) & (middle <= 1)
            pieces, owner = pieces[inside], owner[inside]
        elif mode == "mirror":
            near = np.abs(pieces[..., axis]).max(axis=1, initial=0.0) <= MAX_FOLDS
            pieces, owner = pieces[near], owner[near]
            low, high = pieces[..., axis].min(initial=0.0), pieces[..., axis].max(initial=0.0)
            for line in np.arange(np.ceil(low), np.floor(high) + 1):
                pieces, owner = _split(pieces, owner, axis, float(line))
            tile = np.floor(pieces[..., axis].mean(axis=1, keepdims=True))
            along = pieces[..., axis] - tile
            pieces[..., axis] = np.where(tile % 2 == 1, 1 - along, along)
    share = np.divide(_area(pieces), area[owner], out=np.zeros(len(pieces)), where=area[owner] > 0)
    return (
        np.concatenate([triangles[~leaves], pieces[..., :2]]),
        np.concatenate([mesh_area[~leaves], mesh_area[owner] * share]),
        np.concatenate([values[~leaves], pieces[..., 2:]]),
    )


def _area(triangles: NDArray[np.float64]) -> NDArray[np.float64]:
    (ax, ay), (bx, by) = (triangles[:, 1, :2] - triangles[:, 0, :2]).T, (triangles[:, 2, :2] - triangles[:, 0, :2]).T
    return np.asarray(np.abs(ax * by - ay * bx) / 2)


def _split(
    triangles: NDArray[np.float64], owner: NDArray[np.int64], axis: int, line: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Cut triangles [F, 3, 2 + K] along the line where coordinate ``axis`` is ``line``; each piece keeps its owner's
    number."""
    above = triangles[..., axis] > line
    below = triangles[..., axis] < line
    cut = above.any(axis=1) & below.any(axis=1)
    if not cut.any():
        return triangles, owner
    side = above[cut]
    alone = np.argmax(np.where(side.sum(axis=1, keepdims=True) == 1, side, ~side), axis=1)  # the one on its own side
    turned = np.take_along_axis(triangles[cut], ((alone[:, None] + np.arange(3)) % 3)[..., None], axis=1)
    a, b, c = np.moveaxis(turned, 1, 0)
    p, q = (a + (line - a[:, axis : axis + 1]) / (e - a)[:, axis : axis + 1] * (e - a) for e in (b, c))
    p[:, axis] = q[:, axis] = line
    pieces = [np.stack(corners, axis=1) for corners in ((a, p, q), (p, b, c), (p, c, q))]
    return np.concatenate([triangles[~cut], *pieces]), np.concatenate([owner[~cut], *[owner[cut]] * 3])
