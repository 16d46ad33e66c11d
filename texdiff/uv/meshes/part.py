"""What every mesh reader returns: parts with their UV coordinates, and materials with their base-colour image."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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

    def triangles(self) -> NDArray[np.float64]:
        """UV triangles, float64 [F, 3, 2]."""
        assert self.uv is not None
        return self.uv[self.faces]

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
