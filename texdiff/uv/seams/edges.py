"""Edges of a mesh as the UV map sees them: cut, with their sides on different islands, or inside an island."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.meshes import read_parts
from texdiff.uv.meshes.part import Part

Floats = NDArray[np.float64]

_SAME_PLACE = 1e-6  # of the mesh's extent
_SAME_UV = 1e-5
_FAR = 1e30  # no unit makes coordinates of a sound file as large, and products of larger ones overflow


@dataclass(frozen=True)
class EdgePairs:
    """E edges between two triangles each, as either of them sees it."""

    uv: Floats  # [E, side, 3, 2]: the edge's first end, its second, and the triangle's third corner
    length: Floats  # [E] on the mesh

    def inside(
        self, edge: NDArray[np.intp], side: int, share: Floats, size: tuple[int, int], distance: float
    ) -> Floats:
        """Places [S, 2] in a texture of `size` (height, width): in texels, x right and y up from the lower left corner.

        Each lies at a share [S] of an edge's length, and `distance` texels from it inside the triangle of that side.
        """
        first, second, third = np.moveaxis(self.uv[edge, side] * [size[1], size[0]], 1, 0)
        along, inward = second - first, third - first
        inward = inward - along * (np.sum(inward * along, axis=1) / np.sum(along**2, axis=1))[:, None]
        inward *= distance / np.linalg.norm(inward, axis=1, keepdims=True)
        return first + share[:, None] * along + inward


class MeshEdges:
    """The edges between triangles that share a texture: seams, whose sides lie on different islands, and inner edges.

    Corners of parts that lie on one place are one corner, since files repeat them at each seam. Edges of one triangle
    or of three, and those whose two sides show the same texels mirrored, are neither.

    Args:
        mesh: a mesh file, or what it was read as.
        parts: keys of the parts with the texture (`Atlas.parts`).

    Raises:
        InputError: the mesh can't be read.
    """

    def __init__(self, mesh: Path | Sequence[Part], parts: Sequence[str]) -> None:
        read = read_parts(mesh) if isinstance(mesh, Path) else mesh
        chosen = [part for part in read if part.key in set(parts) and part.uv is not None]
        self.wrap = chosen[0].material.wrap if chosen else ("repeat", "repeat")
        with np.errstate(all="ignore"):  # coordinates of damaged files overflow; such triangles are left out below
            corners = [
                (part.vertices @ place[:3, :3].T + place[:3, 3])[part.faces]
                for part in chosen
                for place in part.transforms
            ]
        uv = [part.triangles() for part in chosen for _ in part.transforms]
        self.seams, self.inner = _pair(
            np.concatenate([*corners, np.zeros((0, 3, 3))]), np.concatenate([*uv, np.zeros((0, 3, 2))])
        )


def _pair(corners: Floats, uv: Floats) -> tuple[EdgePairs, EdgePairs]:
    """Seams and inner edges of triangles [F, 3, 3] and their UVs [F, 3, 2]."""
    sound = (np.abs(corners) < _FAR).all(axis=(1, 2)) & (np.abs(uv) < _FAR).all(axis=(1, 2))  # false for NaN
    corners, uv = corners[sound], uv[sound]
    place = _places(corners)
    # Three edges a triangle, each from the corner of the lower number to that of the higher.
    turns = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
    order = np.concatenate([np.broadcast_to(turn, (len(uv), 3)) for turn in turns])
    face = np.tile(np.arange(len(uv)), 3)
    swap = place[face, order[:, 0]] > place[face, order[:, 1]]
    order[swap] = order[swap][:, [1, 0, 2]]
    low, high = place[face, order[:, 0]], place[face, order[:, 1]]
    by_edge = np.lexsort((high, low))
    low, high, face, order = low[by_edge], high[by_edge], face[by_edge], order[by_edge]
    starts = np.flatnonzero(np.r_[True, (np.diff(low) != 0) | (np.diff(high) != 0)][: len(low)])
    counts = np.diff(np.r_[starts, len(low)])
    pairs = starts[(counts == 2) & (low[starts] != high[starts])][:, None] + [0, 1]  # [E, side]
    seen = uv[face[pairs][..., None], order[pairs]]  # [E, side, 3, 2]
    ends = corners[face[pairs[:, 0]][:, None], order[pairs[:, 0], :2]]
    length = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1)
    along, across = seen[:, :, 1] - seen[:, :, 0], seen[:, :, 2] - seen[:, :, 0]
    turn = along[..., 0] * across[..., 1] - along[..., 1] * across[..., 0]  # [E, side]
    flat = (np.abs(turn) < 1e-12).any(axis=1)
    joined = (np.abs(seen[:, 0, :2] - seen[:, 1, :2]) < _SAME_UV).all(axis=(1, 2))
    inner = joined & (turn[:, 0] * turn[:, 1] < 0) & ~flat
    seams = ~joined & ~flat
    return EdgePairs(seen[seams], length[seams]), EdgePairs(seen[inner], length[inner])


def _places(corners: Floats) -> NDArray[np.int64]:
    """A number for each place where corners [F, 3, 3] lie: [F, 3]."""
    flat = corners.reshape(-1, 3)
    extent = float(np.ptp(flat, axis=0).max()) if len(flat) else 0.0
    cells = np.rint((flat - flat.min(axis=0, initial=np.inf)) / (_SAME_PLACE * (extent or 1.0))).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1, 3)
