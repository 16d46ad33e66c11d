"""Read PLY: UV coordinates at vertices or at the corners of faces, and as many textures as the file names."""

import io
import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from plyfile import PlyData, PlyElementParseError, PlyHeaderParseError
from trimesh.visual.material import PBRMaterial

from texdiff.errors import InputError, one_line
from texdiff.uv.image import open_image
from texdiff.uv.meshes.find_file import find_file, missing_image
from texdiff.uv.meshes.part import ImageRef, Material, Part
from texdiff.uv.meshes.triangulate import triangulate_polygons

MAX_BYTES = 1 << 30
# What programs call the two coordinates of a vertex.
UV_NAMES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"))
HEADER_WORDS = (b"ply", b"format", b"comment", b"obj_info", b"element", b"property")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def read_ply(path: Path) -> list[Part]:
    """One part for each texture of a PLY file. V points up.

    Textures are those of its comments "TextureFile NAME", in their order; faces choose with `texnumber`, else all have
    the first.

    Raises:
        InputError: the file cannot be read, has no faces, or a face names a vertex that does not exist.
    """
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than the limit of {MAX_BYTES}; split the mesh")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ply = PlyData.read(str(path), mmap=False)
            except (PlyHeaderParseError, PlyElementParseError):
                ply = PlyData.read(io.BytesIO(_tidied(path.read_bytes())))
        elements: dict[str, Any] = {element.name: element.data for element in ply.elements}
        if "face" not in elements or not len(elements["face"]):
            raise InputError(f"{path}: holds no faces; give a mesh")
        vertex, face = elements["vertex"], elements["face"]
        names = [name for name in ("vertex_indices", "vertex_index") if name in face.dtype.names]
        if not names:
            raise KeyError("faces without vertex_indices")
        vertices: Floats = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], axis=1)
        lengths: Ints = np.array([len(one) for one in face[names[0]]], np.int64)
        corners: Ints = np.concatenate([np.asarray(one, np.int64) for one in face[names[0]]])
        if len(corners) and (corners.min() < 0 or corners.max() >= len(vertices)):
            wrong = int(corners[(corners < 0) | (corners >= len(vertices))][0])
            raise InputError(
                f"{path}: a face names vertex {wrong}, but the file has {len(vertices)}; export the mesh again"
            )
        uv = _corner_uv(vertex, face, corners, lengths)
        texture = np.asarray(face["texnumber"], np.int64) if "texnumber" in face.dtype.names else np.zeros_like(lengths)
    except (
        PlyHeaderParseError,
        PlyElementParseError,
        KeyError,
        ValueError,
        EOFError,
        UnicodeDecodeError,
        IndexError,
    ) as error:
        raise InputError(f"{path}: not a valid PLY file ({one_line(error)}); export it again") from None
    triangles, of_face = triangulate_polygons(vertices[corners], np.cumsum(lengths) - lengths, lengths)
    if not len(triangles):
        raise InputError(f"{path}: no face has three corners; give a mesh")
    files = [m[1].strip() for text in _comments(ply) if (m := re.match(r"\s*texturefile\s+(.+)", text, re.IGNORECASE))]
    parts = []
    for number in np.unique(texture[of_face]):
        rows = triangles[texture[of_face] == number]
        name = files[number] if 0 <= number < len(files) else None
        key = f"texture {number}" if len(files) > 1 else path.stem
        flat = rows.reshape(-1)
        parts.append(
            Part(
                key=key,
                material=_material(path, key, name, int(number), len(files)),
                vertices=vertices[corners[flat]],
                faces=np.arange(len(flat)).reshape(-1, 3),
                uv=None if uv is None else uv[flat],
            )
        )
    return parts


def _tidied(data: bytes) -> bytes:
    """The file without lines of the header that mean nothing and, where it is text, without what the header does not
    announce at the ends of rows, and without empty rows."""
    header, end, body = data.partition(b"end_header")
    lines = [line.split(None, 1) if b"comment" in line else line.split() for line in header.splitlines()]
    lines = [words for words in lines if words and words[0] in HEADER_WORDS]
    tidy = b"\n".join(b" ".join(words) for words in lines) + b"\nend_header\n"
    if not end or [b"format", b"ascii"] not in [words[:2] for words in lines]:
        return tidy + body.removeprefix(b"\r").removeprefix(b"\n")
    elements: list[tuple[int, list[bool]]] = []  # rows, and of each property whether it is a list
    for words in lines:
        if words[0] == b"element":
            elements.append((int(words[2]), []))
        elif words[0] == b"property" and elements:
            elements[-1][1].append(words[1] == b"list")
    rows = iter([row for line in body.splitlines() if (row := line.split())])
    kept = []
    for count, properties in elements:
        for row in itertools.islice(rows, count):
            length = 0
            for is_list in properties:
                length += 1 + (int(row[length]) if is_list and length < len(row) else 0)
            kept.append(b" ".join(row[:length]))
    return tidy + b"\n".join(kept) + b"\n"


def _comments(ply: PlyData) -> list[str]:
    return [*ply.comments, *(text for element in ply.elements for text in element.comments)]


def _corner_uv(vertex: Any, face: Any, corners: Ints, lengths: Ints) -> Floats | None:
    """UV of every corner of every face, [C, 2]: the faces' own, else those of the vertices; None without any."""
    if "texcoord" in face.dtype.names:
        own = [np.asarray(one, np.float64) for one in face["texcoord"]]
        if all(len(one) == 2 * length for one, length in zip(own, lengths, strict=True)):
            return np.concatenate(own).reshape(-1, 2)
    for pair in UV_NAMES:
        if set(pair) <= set(vertex.dtype.names):
            return np.stack([np.asarray(vertex[name], np.float64) for name in pair], axis=1)[corners]
    return None


def _material(path: Path, key: str, file_name: str | None, number: int, count: int) -> Material:
    image = None

    def to_pbr() -> PBRMaterial:
        texture = open_image(image.source) if image is not None else None
        return PBRMaterial(name=key, baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0)

    if file_name is None and not count:
        return Material(name=key, to_pbr=to_pbr)
    if file_name is None:
        problem = f"its faces choose texture {number}, but the file names {count}"
        return Material(name=key, problem=problem, to_pbr=to_pbr)
    found = find_file(file_name, [path.parent])
    if found is None:
        return Material(name=key, problem=missing_image(file_name), to_pbr=to_pbr)
    image = ImageRef(name=found.name, source=found)
    return Material(name=key, image=image, to_pbr=to_pbr)
