"""Read COLLADA (DAE) through pycollada: which UV set, sampler and image each use of a material really means."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import collada
import numpy as np
from collada.common import DaeError
from collada.material import Map
from collada.polylist import Polylist
from collada.triangleset import TriangleSet
from numpy.typing import NDArray
from trimesh.visual.material import PBRMaterial

from texdiff.errors import InputError, one_line
from texdiff.uv.image import open_image
from texdiff.uv.meshes.find_file import find_file, missing_image
from texdiff.uv.meshes.part import ImageRef, Material, Part, Property
from texdiff.uv.meshes.triangulate import triangulate_polygons

MAX_BYTES = 1 << 30
WRAPS = {"MIRROR": "mirror", "CLAMP": "clamp", "BORDER": "clamp"}
# From the file's up axis to y up, as glTF has it.
Y_UP = {
    "Z_UP": np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=np.float64),
    "X_UP": np.array([[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64),
}


class _Use(NamedTuple):
    """Polygons with the material that one place of the scene binds to them."""

    geometry: Any  # collada.geometry.Geometry
    primitive: Any  # TriangleSet, Polylist or Polygons
    binding: Any  # collada.scene.MaterialNode, or None
    matrix: NDArray[np.float64]  # [4, 4]

    @property
    def texture(self) -> Map | None:
        """The diffuse texture of the effect."""
        diffuse = getattr(getattr(getattr(self.binding, "target", None), "effect", None), "diffuse", None)
        return diffuse if isinstance(diffuse, Map) else None

    def uv_input(self) -> int | None:
        """Which of the primitive's TEXCOORD inputs the texture is bound to: the one of the set that the scene binds to
        its name, else the first. None where there is none."""
        inputs = self.primitive.sources.get("TEXCOORD", [])
        wanted = None
        if self.texture is not None:
            wanted = {symbol: number for symbol, _, number in self.binding.inputs}.get(self.texture.texcoord)
        sets = [one[3] or "0" for one in inputs]
        return (sets.index(wanted) if wanted in sets else 0) if inputs else None


def read_dae(path: Path) -> list[Part]:
    """All parts of a COLLADA file, skinned ones as they were bound. V points up in the file.

    Raises:
        InputError: the file cannot be read or holds no faces.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than the limit of {MAX_BYTES}; split the mesh")
    try:
        # What is broken is left out: a file may hold a broken light and a sound mesh.
        document = collada.Collada(str(path), ignore=[DaeError])
        grouped: dict[tuple[int, str | None, int | None], list[_Use]] = {}
        for use in _uses(document):
            target = getattr(use.binding, "target", None)
            grouped.setdefault((id(use.primitive), getattr(target, "id", None), use.uv_input()), []).append(use)
        materials: dict[str | None, Material] = {}
        parts: list[Part] = []
        for uses in grouped.values():
            name = getattr(getattr(uses[0].binding, "target", None), "id", None)
            if name not in materials:
                materials[name] = _material(path, uses[0])
            part = _part(uses, materials[name], {part.key for part in parts})
            parts += [part] if part is not None else []
    except OSError:
        raise
    except Exception as error:  # pycollada raises anything at all on damaged files
        raise InputError(f"{path}: not a valid COLLADA file ({one_line(error)}); export it again") from None
    if not parts:
        raise InputError(f"{path}: holds no faces; give a mesh")
    return parts


def _uses(document: Any) -> Iterator[_Use]:
    if document.scene is None:
        return
    up = Y_UP.get(str(document.assetInfo.upaxis), np.eye(4))
    bound = list(document.scene.objects("geometry"))
    for controller in document.scene.objects("controller"):
        geometry = getattr(controller, "geometry", None)  # of a skin
        if geometry is None:  # a morph: its base shape
            source = controller.original.source_geometry
            geometry = source.bind(controller.matrix, controller.materialnodebysymbol)
        bound.append(geometry)
    for one in bound:
        for primitive in one.original.primitives:
            if isinstance(primitive, TriangleSet | Polylist):  # Polygons are a Polylist; lines are not drawn
                binding = one.materialnodebysymbol.get(primitive.material)
                yield _Use(one.original, primitive, binding, up @ np.asarray(one.matrix, np.float64))


def _part(uses: list[_Use], material: Material, taken: set[str]) -> Part | None:
    use = uses[0]
    primitive, number = use.primitive, use.uv_input()
    if primitive.vertex is None or primitive.vertex_index is None or not len(primitive.vertex_index):
        return None
    vertices = np.asarray(primitive.vertex, np.float64)[:, :3]
    rows = _triangles(primitive, vertices)
    if not len(rows):
        return None
    corners = np.asarray(primitive.vertex_index, np.int64).reshape(-1)[rows]
    columns = [corners.reshape(-1)]
    uvs = None
    if number is not None:
        uvs = np.asarray(primitive.texcoordset[number], np.float64)[:, :2]
        columns.append(np.asarray(primitive.texcoord_indexset[number], np.int64).reshape(-1)[rows].reshape(-1))
    unique, faces = np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)
    key = str(use.geometry.name or use.geometry.id)
    while key in taken:
        key += " *"
    return Part(
        key=key,
        material=material,
        vertices=vertices[unique[:, 0]],
        faces=faces.reshape(-1, 3).astype(np.int64),
        uv=None if uvs is None else uvs[unique[:, 1]],
        transforms=tuple(one.matrix for one in uses),
    )


def _triangles(primitive: Any, vertices: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers of the corners of each triangle, int64 [T, 3]."""
    if isinstance(primitive, TriangleSet):
        return np.arange(3 * len(primitive.vertex_index)).reshape(-1, 3)
    points = vertices[np.asarray(primitive.vertex_index, np.int64)]
    return triangulate_polygons(points, np.asarray(primitive.polystarts), np.asarray(primitive.vcounts))[0]


def _material(path: Path, use: _Use) -> Material:
    target = getattr(use.binding, "target", None)
    name = str(getattr(target, "name", None) or getattr(target, "id", None) or use.primitive.material or "unnamed")
    properties: dict[str, Property] = {}
    diffuse = getattr(getattr(target, "effect", None), "diffuse", None)
    if isinstance(diffuse, tuple | list) and len(diffuse) >= 3:
        properties["base_color_factor"] = [float(value) for value in diffuse[:3]]

    def to_pbr() -> PBRMaterial:
        texture = open_image(image.source) if image is not None else None
        return PBRMaterial(name=name, baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0)

    image = None
    if target is None:
        problem = f"the scene binds no material to {use.primitive.material or 'it'}"
        return Material(name=name, problem=problem, to_pbr=to_pbr)
    if use.texture is None:
        return Material(name=name, properties=properties, to_pbr=to_pbr)
    named = str(use.texture.sampler.surface.image.path)
    found = find_file(named, [path.parent])
    if found is None:
        return Material(name=name, problem=missing_image(named), properties=properties, to_pbr=to_pbr)
    image = ImageRef(name=found.name, source=found)
    return Material(name=name, image=image, wrap=_wrap(use.texture), properties=properties, to_pbr=to_pbr)


def _wrap(texture: Map) -> tuple[str, str]:
    """Of the sampler, along u and v; COLLADA's default is WRAP."""
    words = {node.tag.rpartition("}")[2]: (node.text or "").strip() for node in texture.sampler.xmlnode.iter()}
    along_u, along_v = (WRAPS.get(words.get(name, ""), "repeat") for name in ("wrap_s", "wrap_t"))
    return along_u, along_v
