"""GLBs written by trimesh, and read as the specification says."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

GREY = Image.new("RGB", (16, 16), (90, 90, 90))


def parse_glb(path: Path) -> tuple[dict[str, Any], list[bytes]]:
    """JSON and buffer views, read as the specification says."""
    data = path.read_bytes()
    magic, version, length, size, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), b"JSON")
    assert size % 4 == 0
    tree = json.loads(data[20 : 20 + size])
    binary_size, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0"
    binary = data[28 + size :]
    assert binary_size == len(binary) == tree["buffers"][0]["byteLength"]
    views = [binary[v["byteOffset"] : v["byteOffset"] + v["byteLength"]] for v in tree["bufferViews"]]
    assert all(v["byteOffset"] % 4 == 0 for v in tree["bufferViews"])
    return tree, views


def image_of(tree: dict[str, Any], views: list[bytes], info: dict[str, Any]) -> np.ndarray:
    image = tree["images"][tree["textures"][info["index"]]["source"]]
    return np.asarray(Image.open(io.BytesIO(views[image["bufferView"]])))


def write_glb(path: Path, scene: trimesh.Scene, change: Any = None) -> Path:
    path.write_bytes(trimesh.exchange.gltf.export_glb(scene, tree_postprocessor=change))
    return path


def square(material: PBRMaterial | None, uv: bool = True, side: float = 1.0) -> trimesh.Trimesh:
    """A square that maps onto the left half of the texture."""
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=float)
    mesh = trimesh.Trimesh(np.c_[corners * side, np.zeros(4)], [[0, 1, 2], [0, 2, 3]], process=False)
    mesh.visual = TextureVisuals(uv=corners * [0.5, 1] if uv else None, material=material or PBRMaterial(name="plain"))
    return mesh


def check_quadrants(path: Path) -> None:
    """The squares along x show blue, white, red, green: what lies under their UVs when v points up."""
    scene = trimesh.load_scene(path, process=False)
    (part,) = scene.geometry.values()
    image = np.asarray(part.visual.material.baseColorTexture.convert("RGB"))
    colours = [(0, 0, 255), (255, 255, 255), (255, 0, 0), (0, 255, 0)]
    corners = part.triangles
    uv = np.asarray(part.visual.uv)[part.faces].mean(axis=1)
    assert len(part.faces) == 8
    for triangle, (u, v) in zip(corners, uv, strict=True):
        which = int(triangle[:, 0].mean())
        texel = image[int((1 - v) * image.shape[0]), int(u * image.shape[1])]
        assert tuple(texel) == colours[which]
