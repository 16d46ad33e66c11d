"""UV coordinates for what of a mesh has none, by xatlas: one atlas for all such parts."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from texdiff.errors import InputError
from texdiff.inference import glb
from texdiff.uv.meshes.gltf.document import Document, parse_gltf
from texdiff.uv.meshes.gltf.draco import is_compressed
from texdiff.uv.meshes.gltf.parts import faces_of, places_of
from texdiff.uv.meshes.part import PartError

_RESOLUTION = 1024
"""Texels a side that islands are packed for."""
_PADDING = 6
"""Texels between islands there: 1.5 latent cells of an atlas of 2,048, so few cells see two islands."""
_INDICES, _VERTICES = 34963, 34962  # bufferView.target, section 5.11.5 of the glTF 2.0 specification
_UINT32, _FLOAT32 = 5125, 5126

Primitive = tuple[int, int]
"""Number of a mesh, and of a primitive in it."""


def unwrap(asset: glb.EditableGltf, path: Path) -> tuple[glb.EditableGltf, list[Primitive], int]:
    """The asset with UV coordinates (TEXCOORD_0) on all triangles that had none; which primitives these are, and how
    many islands they have.

    Vertices along the cuts are doubled, with all their attributes and morph targets; the rest stays as it is. The
    primitives' density of texels is that of their first instance's size. Raises InputError, with `path`,
    where xatlas is not installed, or a part without UV coordinates cannot be read.
    """
    asset = asset.copy()
    found = [
        (m, p)
        for m, mesh in enumerate(asset.tree.get("meshes", []))
        for p, primitive in enumerate(mesh["primitives"])
        if primitive.get("mode", 4) in glb.TRIANGLE_MODES and "TEXCOORD_0" not in primitive["attributes"]
    ]
    if not found:
        return asset, [], 0
    try:
        import xatlas
    except ImportError:
        raise InputError("--unwrap: needs xatlas; pip install 'texdiff[unwrap]'") from None
    document = parse_gltf(path, glb.pack(asset))
    places = places_of(document)
    atlas, meshes = xatlas.Atlas(), []
    for m, p in found:
        primitive = asset.tree["meshes"][m]["primitives"][p]
        try:
            if is_compressed(document, primitive):
                raise PartError("is compressed (Draco), which cannot be unwrapped; export without compression")
            positions = document.accessor(primitive["attributes"].get("POSITION"), 3)
            faces = faces_of(document, primitive, len(positions))
        except PartError as error:
            raise InputError(f"{path}: mesh {m} {error}") from None
        linear = places.get(m, (np.eye(4),))[0][:3, :3]
        placed = positions @ linear.T
        if not np.isfinite(placed.astype(np.float32)).all():
            raise InputError(f"{path}: mesh {m} has coordinates that are not finite, so it cannot be unwrapped")
        meshes.append((primitive, faces))
        if len(faces):
            atlas.add_mesh(placed.astype(np.float32), faces.astype(np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution, packing.padding, packing.bilinear = _RESOLUTION, _PADDING, True
    atlas.generate(pack_options=packing)
    # Both axes are scaled alike, so that texels are square on the mesh.
    scale = np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height, 1)
    number = 0
    for primitive, faces in meshes:
        if not len(faces):
            continue
        vertices, indices, uv = atlas[number]
        number += 1
        _replace(asset, document, primitive, vertices, indices, uv * scale)
    return asset, found, int(atlas.chart_count)


def _replace(
    asset: glb.EditableGltf,
    document: Document,
    primitive: dict[str, Any],
    vertices: NDArray[np.uint32],
    indices: NDArray[np.uint32],
    uv: NDArray[np.float64],
) -> None:
    """Give a primitive the vertices [V] of those that it had, triangles [F, 3] of these, and UV coordinates [V, 2]."""
    for attributes in (primitive["attributes"], *primitive.get("targets", [])):
        for key, accessor in attributes.items():
            old = asset.tree["accessors"][accessor]
            values = document.stored(accessor)[vertices]
            more = {"normalized": True} if old.get("normalized") else {}
            attributes[key] = _add(asset, values, old["componentType"], old["type"], _VERTICES, **more)
            if key == "POSITION" and len(values):
                bounds = {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
                asset.tree["accessors"][attributes[key]].update(bounds)
    primitive["attributes"]["TEXCOORD_0"] = _add(asset, uv.astype("<f4"), _FLOAT32, "VEC2", _VERTICES)
    primitive["indices"] = _add(asset, indices.astype("<u4").reshape(-1, 1), _UINT32, "SCALAR", _INDICES)
    primitive.pop("mode", None)


def _add(asset: glb.EditableGltf, values: NDArray[Any], component: int, kind: str, target: int, **more: object) -> int:
    """A new accessor of values [n, columns], and its number."""
    row = values.itemsize * values.shape[1]
    stride = -(-row // 4) * 4 if target == _VERTICES else row
    padded = np.zeros((len(values), stride), np.uint8)
    padded[:, :row] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), row)
    view = glb.add_view(asset, padded.tobytes())
    asset.tree["bufferViews"][view]["target"] = target
    if stride != row:
        asset.tree["bufferViews"][view]["byteStride"] = stride
    accessors = asset.tree["accessors"]
    accessors.append({"bufferView": view, "componentType": component, "count": len(values), "type": kind, **more})
    return len(accessors) - 1
