"""All triangles of a mesh in one piece, for drawing: where they lie, and what UV and normal change across each."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.meshes.part import Part

Floats = NDArray[np.float64]


class MeshGeometry:
    """The F triangles of the `visible` parts at every place of an instance, in the cube from -1 to 1.

    Triangles without area or with coordinates that are not finite are left out.
    """

    corners: Floats  # [F, 3, 3]
    part: NDArray[np.intp]  # [F] number of the part
    uv: Floats  # [F, 3, 2], 0 where there is none
    normals: Floats  # [F, 3, 3] at the corners, or the triangle's own where the file gives none
    flat_normals: Floats  # [F, 3]
    uv_gradient: Floats  # [F, 2, 3] change of uv per step in space, along the triangle

    def __init__(self, parts: Sequence[Part], visible: Sequence[bool]) -> None:
        pieces = [
            (*_placed(part, transform), np.full(len(part.faces), number))
            for number, part in enumerate(parts)
            for transform in part.transforms
            if visible[number]
        ]
        pieces = pieces or [(np.zeros((0, 3, 3)), np.zeros((0, 3, 3)), np.zeros((0, 3, 2)), np.zeros(0, np.intp))]
        corners, normals, uv, part_number = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
        sound = np.isfinite(corners).all(axis=(1, 2))
        low, high = (
            f(corners[sound].reshape(-1, 3), axis=0, initial=i) for f, i in ((np.min, np.inf), (np.max, -np.inf))
        )
        with np.errstate(all="ignore"):
            corners = (corners - (low + high) / 2) / max(float((high - low).max()) / 2, 1e-300)
            cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
            area = np.linalg.norm(cross, axis=1)
        kept = sound & (area > 1e-14)
        self.corners, self.part, self.uv = corners[kept], part_number[kept], np.nan_to_num(uv[kept])
        self.flat_normals = cross[kept] / area[kept, None]
        self.normals = _unit(normals[kept], self.flat_normals)
        # Along a triangle, weights of its second and third corner change by the dual basis of its edges.
        first, second = self.corners[:, 1] - self.corners[:, 0], self.corners[:, 2] - self.corners[:, 0]
        dual = np.stack([np.cross(second, self.flat_normals), np.cross(self.flat_normals, first)], axis=1)
        dual /= area[kept, None, None]
        changes = np.stack([self.uv[:, 1] - self.uv[:, 0], self.uv[:, 2] - self.uv[:, 0]], axis=2)  # [F, uv, edge]
        self.uv_gradient = changes @ dual

    def uv_at(self, face: NDArray[np.intp], weights: Floats) -> Floats:
        """UV coordinates [N, 2] at barycentric weights [N, 3] of faces [N]."""
        return np.einsum("nc,ncu->nu", weights, self.uv[face])

    def normals_at(self, face: NDArray[np.intp], weights: Floats) -> Floats:
        """Unit normals [N, 3] there."""
        return _unit(np.einsum("nc,ncx->nx", weights, self.normals[face])[:, None], self.flat_normals[face])[:, 0]


def _placed(part: Part, transform: Floats) -> tuple[Floats, Floats, Floats]:
    """Corners, normals (NaN: none given) and UVs of a part at one place."""
    with np.errstate(all="ignore"):
        corners = (part.vertices @ transform[:3, :3].T + transform[:3, 3])[part.faces]
        normals = np.full_like(corners, np.nan)
        if part.normals is not None and abs(np.linalg.det(transform[:3, :3])) > 0:
            normals = (part.normals @ np.linalg.inv(transform[:3, :3]))[part.faces]
    uv = np.zeros((len(part.faces), 3, 2)) if part.uv is None else part.triangles()
    return corners, normals, uv


def _unit(normals: Floats, instead: Floats) -> Floats:
    """Normals [F, 3, 3] at unit length, on the side of `instead` [F, 3], also where they are zero or not finite."""
    with np.errstate(all="ignore"):
        length = np.linalg.norm(normals, axis=2, keepdims=True)
        unit = normals / length
    unit = np.where(np.isfinite(unit) & (length > 0), unit, instead[:, None])
    against = np.einsum("fcx,fx->fc", unit, instead) < 0
    return np.where(against[..., None], -unit, unit)
