"""The mesh that a texture is drawn for: which of its textures is replaced, or how it is unwrapped, and its seams."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from texdiff.errors import InputError
from texdiff.inference import glb
from texdiff.inference.glb.from_scene import from_scene
from texdiff.inference.glb.unwrap import Primitive, unwrap
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.gutter import fill
from texdiff.uv.layout.draw import Surface
from texdiff.uv.meshes.atlases import Atlas, bounds_of_all, read_atlases
from texdiff.uv.meshes.gltf.document import parse_gltf
from texdiff.uv.meshes.gltf.parts import parts_of
from texdiff.uv.meshes.part import Part
from texdiff.uv.meshes.scene import scene_of
from texdiff.uv.seams.edges import EdgePairs, MeshEdges
from texdiff.uv.seams.level import close_seams

GLTF = (".glb", ".gltf")


@dataclass(frozen=True, kw_only=True)
class RetextureTarget:
    """A mesh that is to get a new texture, read and checked."""

    path: Path
    surface: Surface  # where the texture lands
    read: tuple[Part, ...]  # all of the mesh
    parts: tuple[str, ...]  # keys of those that will show it
    replaced: NDArray[np.uint8] | None  # [H, W, 3], the texture that is replaced; None where the mesh had none
    choice: str  # one line for the user: what is replaced, what stays
    unwrapped: tuple[glb.EditableGltf, tuple[Primitive, ...]] | None = None  # the mesh, and what gets the texture

    @property
    def triangles(self) -> NDArray[np.float64]:
        """[F, 3, 2] in UV units, v up."""
        return self.surface.triangles

    @cached_property
    def asset(self) -> glb.EditableGltf:
        """The mesh as glTF, with its own texture. Raises InputError where it cannot be read so."""
        if self.unwrapped is not None:
            return self.unwrapped[0]
        return glb.read(self.path) if self.path.suffix.lower() in GLTF else from_scene(scene_of(self.read))


def read_target(path: Path, unwrapping: bool = False, material: str | None = None) -> RetextureTarget:
    """Read the mesh and choose the texture to replace: that of a material, or else the one on the most surface.

    A mesh with a UV map and no texture at all gets the new one wherever it has UV coordinates, and so does a material
    without a texture. With `unwrapping` parts that have no UV coordinates get them from xatlas, where there are such,
    and the new texture.

    Raises:
        InputError: the mesh cannot be read, or has no UV map or no such material, or xatlas is not installed.
    """
    found = read_atlases(path)
    named = [part for part in found.parts if material in (None, part.material.name)]
    if not named:
        names = ", ".join(dict.fromkeys(part.material.name for part in found.parts))
        raise InputError(f"--material {material}: {path.name} has no such material; name one of {names}")
    if unwrapping:
        mesh = glb.read(path) if path.suffix.lower() in GLTF else from_scene(scene_of(found.parts))
        asset, primitives, islands = unwrap(mesh, path)
        if primitives:
            return _unwrapped(path, asset, primitives, islands)
    keys = {part.key for part in named}
    atlases = sorted(found.atlases, key=lambda atlas: (keys.isdisjoint(atlas.parts), -float(atlas.mesh_area.sum())))
    if atlases and not keys.isdisjoint(atlases[0].parts):
        triangles, parts, replaced = atlases[0].triangles, atlases[0].parts, atlases[0].texture
        corners, normals = atlases[0].corners, atlases[0].normals
    else:
        mapped = [part for part in named if part.uv is not None and len(part.faces)]
        if not mapped:
            where = f"{path}: " if material is None else f"{path}: the material {material} has "
            raise InputError(f"{where}no UV map, so it cannot be textured; add --unwrap, or unwrap the mesh first")
        triangles = np.concatenate([part.triangles() for part in mapped])
        corners, normals = (np.concatenate(each) for each in zip(*(part.corners() for part in mapped), strict=True))
        parts, replaced = tuple(part.key for part in mapped), None
    if not len(triangles):
        reason = "all its UV coordinates lie outside [0, 1], where its texture does not repeat, so no texel is on it"
        raise InputError(f"{path}: {reason}; unwrap the mesh again")
    if not np.isfinite(triangles).all(axis=(1, 2)).any():
        raise InputError(f"{path}: its UV coordinates are not finite numbers; unwrap the mesh again")
    surface = Surface(triangles=triangles, corners=corners, normals=normals, bounds=found.bounds)
    choice = _choice(path, [] if replaced is None else atlases, material)
    choice += "; nothing to unwrap, as all of it has UV coordinates" if unwrapping else ""
    return RetextureTarget(path=path, surface=surface, read=found.parts, parts=parts, replaced=replaced, choice=choice)


def _unwrapped(path: Path, asset: glb.EditableGltf, primitives: list[Primitive], islands: int) -> RetextureTarget:
    """The target that is `primitives` of the asset, which have got UV coordinates in so many islands."""
    parts = parts_of(parse_gltf(path, glb.pack(asset)))
    chosen = [part for part in parts if part.place in set(primitives) and len(part.faces)]
    if not chosen:
        raise InputError(f"{path}: has no surface that can be unwrapped; give another mesh")
    corners, normals = (np.concatenate(each) for each in zip(*(part.corners() for part in chosen), strict=True))
    triangles = np.concatenate([part.triangles() for part in chosen])
    surface = Surface(triangles=triangles, corners=corners, normals=normals, bounds=bounds_of_all(parts))
    stay = "; parts with UV coordinates stay" if len(chosen) < len([part for part in parts if len(part.faces)]) else ""
    return RetextureTarget(
        path=path,
        surface=surface,
        read=tuple(parts),
        parts=tuple(part.key for part in chosen),
        replaced=None,
        choice=f"{path.name}: unwrapped by xatlas into {islands} islands, which get the new texture{stay}",
        unwrapped=(asset, tuple(primitives)),
    )


def _choice(path: Path, atlases: list[Atlas], material: str | None) -> str:
    if not atlases and material is not None:
        return f"{path.name}: {material} had no texture and gets the new one"
    if not atlases:
        return f"{path.name}: had no texture; every part with UV coordinates gets the new one"
    line = f"{path.name}: the new texture replaces {atlases[0].name}"
    if len(atlases) > 1:
        total = max(sum(float(atlas.mesh_area.sum()) for atlas in atlases), 1e-30)
        share = float(atlases[0].mesh_area.sum()) / total
        line += f" (on {share:.0%} of the textured surface); {', '.join(a.name for a in atlases[1:])} stay"
        line += "s" if len(atlases) == 2 else ""
    return line


def read_seams(target: RetextureTarget) -> EdgePairs:
    """The cut edges of the parts that show the texture; where it does not repeat, those within [0, 1] alone."""
    edges = MeshEdges(target.read, target.parts)
    seams = edges.seams
    within = ((seams.uv >= 0) & (seams.uv <= 1)).all(axis=(1, 2, 3)) | (edges.wrap == ("repeat", "repeat"))
    return EdgePairs(seams.uv[within], seams.length[within])


def finish_texture(
    target: RetextureTarget, texture: NDArray[np.uint8], seams: EdgePairs | None = None, fill_void: bool = True
) -> NDArray[np.uint8]:
    """A drawn texture as the mesh gets it: `seams` closed, where there are any to close, and the void filled from the
    islands; every texel that the UV map touches at all belongs to them."""
    touched = coverage_mask(target.triangles, texture.shape[:2], mode="conservative")
    if seams is not None:
        texture = close_seams(texture, touched, seams)
    return fill(texture, touched) if fill_void else texture
