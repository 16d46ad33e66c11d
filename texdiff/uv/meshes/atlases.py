"""Read a mesh file as textures: each base-colour picture once, with every UV triangle that uses it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from trimesh.parent import Geometry
from trimesh.scene.transforms import SceneGraph
from trimesh.visual import TextureVisuals

from texdiff.errors import InputError
from texdiff.uv.image import PictureError, read_picture
from texdiff.uv.meshes.gltf_parts import read_gltf
from texdiff.uv.meshes.obj import read_obj
from texdiff.uv.meshes.part import Fact, Part, Picture
from texdiff.uv.meshes.with_trimesh import read_other
from texdiff.uv.wrapping import unwrap

READERS = {".glb": read_gltf, ".gltf": read_gltf, ".obj": read_obj, ".ply": read_other, ".dae": read_other}


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """One base-colour texture of a mesh file and the triangles that use it, over all parts."""

    name: str  # the texture's own name: the picture's file name, or the glTF image's or material's
    texture: NDArray[np.uint8]  # [H, W, 3], row 0 = top of the picture
    triangles: NDArray[np.float64]  # [F, 3, 2] in UV units, v up (v near 1 = row 0), as stored: not wrapped
    surface: NDArray[np.float64]  # [F], area of each triangle on the mesh, node transforms applied
    parts: tuple[str, ...]  # keys of load_scene(path).geometry that wear it
    facts: Mapping[str, Fact] = field(default_factory=dict)  # of its materials: recorded, not applied to the texels


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A texture, or a material, that gives no atlas."""

    name: str
    reason: str  # one plain sentence


@dataclass(frozen=True, kw_only=True)
class MeshTextures:
    """All that one mesh file holds."""

    atlases: tuple[Atlas, ...]
    set_aside: tuple[SetAside, ...]


def read_parts(path: Path) -> list[Part]:
    """The mesh file as parts.

    Raises:
        InputError: the file as a whole can't be read.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: {path.suffix or 'a name without a suffix'} is no mesh; give {', '.join(READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a mesh ({', '.join(READERS)})")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: is empty (0 bytes); copy or export it again")
        return reader(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); check the file") from None
    except MemoryError:
        raise InputError(f"{path}: does not fit into memory; split the mesh") from None


def load_scene(path: Path) -> trimesh.Scene:
    """The mesh file as a scene: a geometry per part, its ``visual.uv`` v up as the base-colour texture is looked up
    (the right UV set, texture transform applied), its ``visual.material`` a ``PBRMaterial``.

    Raises:
        InputError: the file as a whole can't be read.
    """
    parts = [part for part in read_parts(path) if len(part.faces)]
    looks = {id(part.material): part.material.look() for part in parts}
    graph = SceneGraph()
    geometry: dict[str, Geometry] = {}
    for part in parts:
        geometry[part.key] = trimesh.Trimesh(
            vertices=part.vertices,
            faces=part.faces,
            vertex_normals=part.normals,
            visual=TextureVisuals(uv=part.uv, material=looks[id(part.material)]),
            process=False,
        )
        for number, transform in enumerate(part.transforms):
            node = part.key if number == 0 else f"{part.key} #{number + 1}"
            graph.update(frame_to=node, matrix=transform, geometry=part.key)
    return trimesh.Scene(geometry=geometry, graph=graph)


def read_textures(path: Path) -> MeshTextures:
    """Every base-colour texture of a mesh file, and what can't be used and why.

    Parts whose pictures hold the same texels share one atlas, also where the pictures are stored twice.

    Raises:
        InputError: the file as a whole can't be read.
    """
    decoded: dict[Path | bytes, tuple[bytes, NDArray[np.uint8]] | PictureError] = {}
    users: dict[bytes, list[Part]] = {}
    aside: dict[tuple[str, str], None] = {}  # in order, each once
    for part in read_parts(path):
        picture = part.material.picture
        if picture is None:
            aside[part.material.name, part.material.problem] = None
            continue
        if picture.source not in decoded:
            decoded[picture.source] = _decode(picture)
        result = decoded[picture.source]
        if isinstance(result, PictureError):
            aside[picture.name, f"the picture {result}"] = None
        elif part.uv is None:
            aside[part.material.name, f"wears {picture.name}, but {part.problem}"] = None
        else:
            users.setdefault(result[0], []).append(part)
    textures = {result[0]: result[1] for result in decoded.values() if not isinstance(result, PictureError)}
    atlases = tuple(_atlas(textures[digest], parts) for digest, parts in users.items())
    return MeshTextures(atlases=atlases, set_aside=tuple(SetAside(name=n, reason=r) for n, r in aside))


def _decode(picture: Picture) -> tuple[bytes, NDArray[np.uint8]] | PictureError:
    try:
        texture = read_picture(picture.source)
    except PictureError as error:
        return error
    return hashlib.sha256(str(texture.shape).encode() + texture.tobytes()).digest(), texture


def _atlas(texture: NDArray[np.uint8], parts: list[Part]) -> Atlas:
    triangles, surfaces = [], []
    facts: dict[str, Fact] = {}
    for part in parts:
        uv, surface = unwrap(part.triangles(), part.surface(), part.material.wrap)
        triangles.append(uv)
        surfaces.append(surface)
        facts = {**part.material.facts, **facts}
    assert parts[0].material.picture is not None
    return Atlas(
        name=parts[0].material.picture.name,
        texture=texture,
        triangles=np.concatenate(triangles),
        surface=np.concatenate(surfaces),
        parts=tuple(part.key for part in parts),
        facts=facts,
    )
