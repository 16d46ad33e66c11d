"""What every mesh reader returns: parts with their UV coordinates, and materials with their base-colour image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.layout.winner import size_class, triangle_areas

if TYPE_CHECKING:
    from trimesh.visual.material import PBRMaterial

# Plain values that go into JSON as they are.
Property = bool | int | float | str | list[float]


class PartError(Exception):
    """One part or material cannot be used, the rest of the file can; the text is a plain sentence."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRef:
    """Where the base-colour texels of a material are stored."""

    name: str
    source: Path | bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """A material as far as textures go."""

    name: str
    image: ImageRef | None = None  # None where there is no base-colour texture, or none that can be used
    problem: str = "has no base-colour texture"  # why image is None
    wrap: tuple[str, str] = ("repeat", "repeat")  # outside [0, 1], along u and v: repeat, clamp or mirror
    properties: dict[str, Property] = field(default_factory=dict)  # recorded, not applied: colour factor, alpha mode
    number: int | None = None  # of a glTF file's material, its place in the list
    to_pbr: "Callable[[], PBRMaterial]"  # called only for rendering and export


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Triangles of one material."""

    key: str  # unique in its file
    material: Material
    vertices: NDArray[np.float64]  # [V, 3]
    faces: NDArray[np.int64]  # [F, 3]
    uv: NDArray[np.float64] | None  # [V, 2], v up, as the base-colour texture is looked up
    normals: NDArray[np.float64] | None = None  # [V, 3]
    transforms: tuple[NDArray[np.float64], ...] = (np.eye(4),)  # to world space, 4 x 4, one per instance
    problem: str = "it has no UV coordinates"  # why uv is None
    place: tuple[int, int] | None = None  # in a glTF file: the number of its mesh, and of its primitive there

    def triangles(self) -> NDArray[np.float64]:
        """UV triangles, float64 [F, 3, 2]."""
        assert self.uv is not None
        return self.uv[self.faces]

    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where each triangle lies in world space, and the normals there (of the triangle itself where the part has
        none): float64 [F, 3, 3] each. Of several instances the largest, of much the same size the first.
        """
        with np.errstate(all="ignore"):  # coordinates may be near the end of float64
            surface = np.array([triangle_areas(self._placed(transform)[0]).sum() for transform in self.transforms])
        largest = int(size_class(surface, float(surface.max())).argmax())
        return self._placed(self.transforms[largest])

    def _placed(self, transform: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Corners and normals of an instance, [F, 3, 3] each."""
        linear = transform[:3, :3]
        with np.errstate(all="ignore"):  # vertices may be NaN or near the end of float32
            corners = (self.vertices @ linear.T + transform[:3, 3])[self.faces]
            if self.normals is not None and len(self.normals) == len(self.vertices):
                # The cofactors are the inverse transpose but for a factor, and there is always a matrix of them.
                a, b, c = linear.T
                cofactors = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)], axis=1)
                normals = (self.normals @ cofactors.T)[self.faces]
            else:
                across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
                normals = np.repeat(across[:, None], 3, axis=1)
            return corners, -normals if np.linalg.det(linear) < 0 else normals  # mirrored, front faces stay in front

    def bounds(self) -> NDArray[np.float64]:
        """Lowest and highest corner of the part in world space over all instances, float64 [2, 3]: infinite, the wrong
        way round, where no triangle has finite coordinates.
        """
        used = self.vertices[np.unique(self.faces)]
        low, high = np.full(3, np.inf), np.full(3, -np.inf)
        for transform in self.transforms:
            with np.errstate(all="ignore"):
                points = used @ transform[:3, :3].T + transform[:3, 3]
            points = points[np.isfinite(points).all(axis=1)]
            low, high = np.minimum(low, points.min(0, initial=np.inf)), np.maximum(high, points.max(0, initial=-np.inf))
        return np.stack([low, high])

    def mesh_area(self) -> NDArray[np.float64]:
        """Area of each triangle, summed over all instances of the part: float64 [F]; 0 where it is not finite."""
        total = np.zeros(len(self.faces))
        for transform in self.transforms:
            with np.errstate(over="ignore", invalid="ignore"):  # vertices may be NaN or near the end of float32
                corners = (self.vertices @ transform[:3, :3].T)[self.faces]
                cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
                total += np.linalg.norm(cross, axis=1) / 2
        return np.nan_to_num(total, nan=0.0, posinf=0.0)


@dataclass(frozen=True, kw_only=True)
class MeshUse:
    """A mesh, and those of its parts that use a texture."""

    path: Path
    parts: tuple[str, ...]  # Part.key of each
    share: float  # of the mesh's textured area, 0-1
