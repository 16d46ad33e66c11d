"""A mesh of any format that can be read, as a glTF asset."""

import copy
import json

import numpy as np
import trimesh
from trimesh.visual.material import PBRMaterial

from texdiff.inference.glb import EditableGltf, Json
from texdiff.inference.glb.base_color import MATTE

_VERTICES, _INDICES = 34962, 34963  # bufferView.target, section 5.11.5 of the specification


def has_uv(part: trimesh.parent.Geometry) -> bool:
    """Whether a part of a scene is a surface with UV coordinates."""
    uv = getattr(getattr(part, "visual", None), "uv", None)
    if not isinstance(part, trimesh.Trimesh) or uv is None:
        return False
    return len(uv) == len(part.vertices) and len(part.faces) > 0


def from_scene(scene: trimesh.Scene) -> EditableGltf:
    """The scene as glTF: one mesh of one primitive per part, named by its key; images kept lossless."""
    converted: dict[tuple[int, bool], PBRMaterial] = {}
    for part in scene.geometry.values():
        key = (id(part.visual.material), has_uv(part))
        if key not in converted:
            converted[key] = _material(part.visual.material, textured=key[1])
        part.visual.material = converted[key]
    files = trimesh.exchange.gltf.export_gltf(scene, merge_buffers=True)
    tree = json.loads(files["model.gltf"])
    binary = files["gltf_buffer.bin"]
    starts = [(view["byteOffset"], view["byteLength"]) for view in tree["bufferViews"]]
    asset = EditableGltf(tree, [binary[start : start + length] for start, length in starts])
    for node in [*tree["scenes"], *tree.get("nodes", []), *tree.get("meshes", [])]:
        node.pop("extras", None)  # trimesh's own notes
    for mesh in tree.get("meshes", []):
        primitive = mesh["primitives"][0]
        for key_, accessor in {"indices": primitive["indices"], **primitive["attributes"]}.items():
            view = tree["bufferViews"][tree["accessors"][accessor]["bufferView"]]
            view["target"] = _INDICES if key_ == "indices" else _VERTICES
        if "NORMAL" in primitive["attributes"]:
            _mend_normals(asset, primitive, scene.geometry[mesh["name"]])
    return asset


def _material(source: PBRMaterial, textured: bool) -> PBRMaterial:
    """The material as it is to be exported; without UV coordinates glTF allows it no images."""
    material = copy.copy(source)
    material._data = dict(source._data)
    image = material.baseColorTexture if textured else None
    if image is not None and image.mode not in ("L", "LA", "RGB", "RGBA", "I", "I;16"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    # A copy has no file format, so it is written as PNG: encoding a JPEG again would lose some of it.
    material.baseColorTexture = None if image is None else image.copy()
    if material.metallicFactor is None:
        material.metallicFactor = MATTE["pbrMetallicRoughness"]["metallicFactor"]
    if material.roughnessFactor is None:
        material.roughnessFactor = MATTE["pbrMetallicRoughness"]["roughnessFactor"]
    # Wavefront files and the like know no back sides, and are often wound either way.
    material.doubleSided = True
    return material


def _mend_normals(asset: EditableGltf, primitive: Json, part: trimesh.Trimesh) -> None:
    """Vertex normals of no length, which glTF forbids, become those of the faces around the vertex."""
    accessor = asset.tree["accessors"][primitive["attributes"]["NORMAL"]]
    normals = np.frombuffer(asset.views[accessor["bufferView"]], dtype="<f4").reshape(-1, 3).copy()
    bad = ~(np.abs(np.linalg.norm(normals, axis=1) - 1) < 1e-3)
    if bad.any():
        around = np.zeros((len(normals), 3))
        np.add.at(around, part.faces, (part.face_normals * part.area_faces[:, None])[:, None])
        length = np.linalg.norm(around, axis=1, keepdims=True)
        around = np.where(length > 0, around / np.where(length > 0, length, 1), [0.0, 0.0, 1.0])
        normals[bad] = around[bad]
        asset.views[accessor["bufferView"]] = normals.tobytes()
        for bound in ("min", "max"):  # those of the old values, and needed for positions only
            accessor.pop(bound, None)
