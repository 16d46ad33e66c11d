"""Read a mesh file as atlases: each base-colour image once, with every UV triangle that uses it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.image import ImageError, content_hash, read_image
from texdiff.uv.meshes import read_parts
from texdiff.uv.meshes.part import Part, Property
from texdiff.uv.wrapping import to_repeating


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """One base-colour texture of a mesh file and the triangles that use it, over all parts."""

    name: str  # the texture's own name: the image's file name, or the name of the glTF image or material
    texture: NDArray[np.uint8]  # [H, W, 3], row 0 = top of the image
    triangles: NDArray[np.float64]  # [F, 3, 2] in UV units, v up (v near 1 = row 0), as stored: may leave [0, 1]
    mesh_area: NDArray[np.float64]  # [F], area of each triangle on the mesh, node transforms applied
    corners: NDArray[np.float64]  # [F, 3, 3] in world space; of several instances the largest
    normals: NDArray[np.float64]  # [F, 3, 3] there, of any length
    parts: tuple[str, ...]  # Part.key of those that use it
    properties: Mapping[str, Property]  # of its materials: recorded, not applied to the texels


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A texture, or a material, that gives no atlas."""

    name: str
    reason: str  # one plain sentence


@dataclass(frozen=True, kw_only=True)
class MeshAtlases:
    """What one mesh file gives."""

    atlases: tuple[Atlas, ...]
    rejected: tuple[Rejected, ...]
    parts: tuple[Part, ...]  # all that it was read as
    bounds: NDArray[np.float64]  # [2, 3], lowest and highest corner of everything in the file, in world space


def read_atlases(path: Path) -> MeshAtlases:
    """Every base-colour texture of a mesh file, and what cannot be used and why.

    Parts whose images hold the same texels share one atlas, also where the images are stored twice.

    Raises:
        InputError: the file as a whole cannot be read.
    """
    return atlases_of(path, read_parts(path))


def atlases_of(path: Path, parts: list[Part]) -> MeshAtlases:
    """As `read_atlases`, of a mesh file's parts."""
    decoded: dict[Path | bytes, tuple[str, NDArray[np.uint8]] | ImageError] = {}
    users: dict[str, list[Part]] = {}
    rejected: dict[tuple[str, str], None] = {}  # in order, each once
    for part in parts:
        image = part.material.image
        if image is None:
            rejected[part.material.name, part.material.problem] = None
            continue
        if image.source not in decoded:
            decoded[image.source] = _decode(image.source)
        result = decoded[image.source]
        if isinstance(result, ImageError):
            rejected[image.name, f"the image {result}"] = None
        elif part.uv is None:
            rejected[part.material.name, f"uses {image.name}, but {part.problem}"] = None
        else:
            users.setdefault(result[0], []).append(part)
    textures = {result[0]: result[1] for result in decoded.values() if not isinstance(result, ImageError)}
    atlases = tuple(_atlas(path, textures[digest], parts) for digest, parts in users.items())
    unused = tuple(Rejected(name=n, reason=r) for n, r in rejected)
    return MeshAtlases(atlases=atlases, rejected=unused, parts=tuple(parts), bounds=bounds_of_all(parts))


def bounds_of_all(parts: list[Part]) -> NDArray[np.float64]:
    """Lowest and highest corner of all parts with all their instances, float64 [2, 3]; zeros where there is none."""
    each = np.array([part.bounds() for part in parts if len(part.faces)]).reshape(-1, 2, 3)
    bounds = np.stack([each[:, 0].min(axis=0, initial=np.inf), each[:, 1].max(axis=0, initial=-np.inf)])
    return bounds if (bounds[0] <= bounds[1]).all() else np.zeros((2, 3))


def _decode(source: Path | bytes) -> tuple[str, NDArray[np.uint8]] | ImageError:
    try:
        texture = read_image(source)
    except ImageError as error:
        return error
    return content_hash(texture), texture


def _atlas(path: Path, texture: NDArray[np.uint8], parts: list[Part]) -> Atlas:
    triangles, areas, surfaces = [], [], []
    properties: dict[str, Property] = {}
    for part in parts:
        surface = np.concatenate(part.corners(), axis=2)
        uv, area, surface = to_repeating(part.triangles(), part.mesh_area(), part.material.wrap, surface)
        triangles.append(uv)
        areas.append(area)
        surfaces.append(surface)
        properties = {**part.material.properties, **properties}
    assert parts[0].material.image is not None
    source = parts[0].material.image.source
    if isinstance(source, Path) and source.parent == path.parent.parent / "textures":
        properties["image_folder"] = "../textures"  # which the file does not name
    return Atlas(
        name=parts[0].material.image.name,
        texture=texture,
        triangles=np.concatenate(triangles),
        mesh_area=np.concatenate(areas),
        corners=np.concatenate([surface[..., :3] for surface in surfaces]),
        normals=np.concatenate([surface[..., 3:] for surface in surfaces]),
        parts=tuple(part.key for part in parts),
        properties=properties,
    )
