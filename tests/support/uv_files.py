"""Mesh files and pictures made by code, for the tests of this folder."""

import base64
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from texdiff.uv.meshes.atlases import Atlas, read_atlases

SQUARE = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], dtype=np.float64)
SQUARE_FACES = np.array([[0, 1, 2], [0, 2, 3]])


def lettered_checker(size: int = 64, cells: int = 4) -> np.ndarray:
    """Cells of different colours with letters: no flip, turn or swap leaves it as it is. uint8 [size, size, 3]."""
    image = Image.new("RGB", (size, size))
    draw = ImageDraw.Draw(image)
    step = size // cells
    for row in range(cells):
        for column in range(cells):
            number = row * cells + column
            colour = (40 + 12 * number, 220 - 10 * number, (97 * number) % 256)
            draw.rectangle([column * step, row * step, (column + 1) * step - 1, (row + 1) * step - 1], fill=colour)
            draw.text((column * step + 2, row * step + 1), chr(65 + number), fill=(255, 255, 255))
    return np.asarray(image).copy()


def png(texture: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(texture).save(file, "PNG")
    return file.getvalue()


class Gltf:
    """A glTF document put together piece by piece."""

    def __init__(self) -> None:
        self.binary = b""
        self.tree: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}

    def add(self, key: str, value: dict[str, Any]) -> int:
        self.tree.setdefault(key, []).append(value)
        return len(self.tree[key]) - 1

    def view(self, data: bytes, **more: Any) -> int:
        start = len(self.binary)
        self.binary += data + b"\0" * (-len(data) % 4)
        return self.add("bufferViews", {"buffer": 0, "byteOffset": start, "byteLength": len(data), **more})

    def accessor(self, values: Any, dtype: str, kind: str, **more: Any) -> int:
        component = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}[dtype]
        array = np.asarray(values, dtype="<" + dtype)
        item = {"bufferView": self.view(array.tobytes()), "componentType": component, "count": len(array), "type": kind}
        return self.add("accessors", item | more)

    def picture(self, texture: np.ndarray | bytes, name: str = "paint") -> int:
        data = texture if isinstance(texture, bytes) else png(texture)
        return self.add("images", {"bufferView": self.view(data), "mimeType": "image/png", "name": name})

    def material(self, image: int | None, sampler: dict[str, Any] | None = None, **info: Any) -> int:
        if image is None:
            return self.add("materials", {"name": "bare", "pbrMetallicRoughness": {}})
        texture: dict[str, Any] = {"source": image}
        if sampler is not None:
            texture["sampler"] = self.add("samplers", sampler)
        pbr = {"baseColorTexture": {"index": self.add("textures", texture), **info}}
        return self.add("materials", {"name": "painted", "pbrMetallicRoughness": pbr})

    def primitive(
        self, uv: np.ndarray | None, material: int | None, vertices: np.ndarray | None = None, faces: Any = SQUARE_FACES
    ) -> dict[str, Any]:
        """By default a unit square; ``uv`` in glTF's axes, v down."""
        if vertices is None:
            vertices = np.concatenate([SQUARE, np.zeros((4, 1))], axis=1)
        attributes = {"POSITION": self.accessor(vertices, "f4", "VEC3")}
        if uv is not None:
            attributes["TEXCOORD_0"] = self.accessor(uv, "f4", "VEC2")
        item: dict[str, Any] = {"attributes": attributes}
        if faces is not None:
            item["indices"] = self.accessor(np.ravel(faces), "u4", "SCALAR")
        if material is not None:
            item["material"] = material
        return item

    def place(self, *primitives: dict[str, Any], **node: Any) -> int:
        mesh = self.add("meshes", {"primitives": list(primitives), "name": "shape"})
        index = self.add("nodes", {"mesh": mesh, **node})
        self.tree["scenes"][0]["nodes"].append(index)
        return index

    def glb(self) -> bytes:
        tree = {**self.tree, "buffers": [{"byteLength": len(self.binary)}, *self.tree.get("buffers", [])]}
        text = json.dumps(tree).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
        chunks += struct.pack("<II", len(self.binary), 0x004E4942) + self.binary
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def write(self, path: Path) -> Path:
        """As .glb; as .gltf with a data URI."""
        if path.suffix == ".glb":
            path.write_bytes(self.glb())
        else:
            uri = "data:application/octet-stream;base64," + base64.b64encode(self.binary).decode()
            path.write_text(json.dumps({**self.tree, "buffers": [{"byteLength": len(self.binary), "uri": uri}]}))
        return path


def square_glb(path: Path, texture: np.ndarray | bytes, uv: np.ndarray = SQUARE, **info: Any) -> Path:
    """One unit square that wears one picture."""
    gltf = Gltf()
    gltf.place(gltf.primitive(uv, gltf.material(gltf.picture(texture), **info)))
    return gltf.write(path)


def square_obj(
    folder: Path, map_kd: str = "paint.png", mtl: str = "square.mtl", faces: str = "f 1/1 2/2 3/3 4/4"
) -> Path:
    """One unit square as OBJ + MTL; the picture is the caller's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / mtl).write_text(f"newmtl paint\nKd 0.5 0.5 0.5\nmap_Kd {map_kd}\n")
    path = folder / "square.obj"
    path.write_text(
        f"mtllib {mtl}\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl paint\n{faces}\n"
    )
    return path


def only_atlas(path: Path) -> Atlas:
    """The one atlas of a mesh file in which nothing is rejected."""
    read = read_atlases(path)
    assert [item.reason for item in read.rejected] == []
    (atlas,) = read.atlases
    return atlas
