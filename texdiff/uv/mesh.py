"""Read a mesh file as textures: each base-colour picture once, with every UV triangle that uses it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.typing import NDArray
from PIL import Image

from texdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Atlas:
    """One base-colour texture of a mesh file and the triangles that use it, over all parts."""

    name: str  # the texture's own name: the picture's file name, or the glTF image's or material's
    texture: NDArray[np.uint8]  # [H, W, 3], row 0 = top of the picture
    triangles: NDArray[np.float64]  # [F, 3, 2] in UV units, v up (v near 1 = row 0), as stored: not wrapped
    surface: NDArray[np.float64]  # [F], area of each triangle on the mesh, node transforms applied
    parts: tuple[str, ...]  # keys of load_scene(path).geometry that wear it


@dataclass(frozen=True, kw_only=True)
class SetAside:
    """A texture or material that gives no atlas."""

    name: str
    reason: str  # one plain sentence


@dataclass(frozen=True, kw_only=True)
class MeshTextures:
    """All that one mesh file holds."""

    atlases: tuple[Atlas, ...]
    set_aside: tuple[SetAside, ...]


def load_scene(path: Path) -> trimesh.Scene:
    """The mesh file as a scene whose parts carry UV coordinates (v up) and materials.

    Raises:
        InputError: the file as a whole can't be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a mesh (.glb, .gltf, .obj, .ply, .dae)")
    try:
        return trimesh.load_scene(path, process=False)
    except Exception as error:  # the readers raise anything at all on damaged files
        raise InputError(f"{path}: can't be read as a mesh ({type(error).__name__}: {error}); check the file") from None


def read_textures(path: Path) -> MeshTextures:
    """Every base-colour texture of a mesh file, and what can't be used and why.

    Raises:
        InputError: the file as a whole can't be read.
    """
    scene = load_scene(path)
    atlases: dict[bytes, list[tuple[str, str, NDArray[np.float64], NDArray[np.float64]]]] = {}
    pictures: dict[bytes, NDArray[np.uint8]] = {}
    aside: dict[str, str] = {}
    for key, part in scene.geometry.items():
        uv = getattr(part.visual, "uv", None)
        material = getattr(part.visual, "material", None)
        image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
        name = getattr(material, "name", None) or key
        if not isinstance(image, Image.Image):
            aside[name] = "has no base-colour texture"
            continue
        if uv is None:
            aside[name] = "has a texture but no UV coordinates"
            continue
        texture = np.asarray(image.convert("RGB"))
        digest = str(texture.shape).encode() + texture.tobytes()
        pictures[digest] = texture
        nodes = scene.graph.geometry_nodes.get(key, [])
        scale = [abs(np.linalg.det(scene.graph[node][0][:3, :3])) ** (2 / 3) for node in nodes]
        surface = part.area_faces * (sum(scale) if scale else 1.0)
        label = Path(getattr(image, "filename", "") or "").name or image.info.get("file_path") or name
        triangles = np.asarray(uv, dtype=np.float64)[part.faces]
        atlases.setdefault(digest, []).append((str(label), key, triangles, surface))
    return MeshTextures(
        atlases=tuple(
            Atlas(
                name=parts[0][0],
                texture=pictures[digest],
                triangles=np.concatenate([part[2] for part in parts]),
                surface=np.concatenate([part[3] for part in parts]),
                parts=tuple(part[1] for part in parts),
            )
            for digest, parts in atlases.items()
        ),
        set_aside=tuple(SetAside(name=name, reason=reason) for name, reason in aside.items()),
    )
