"""Read Wavefront OBJ: one part per material, and a second one for its faces without UV coordinates.

An own reader, because a face without UV coordinates must not cost its neighbours theirs, concave polygons must not be
cut as fans, and a material that is not found has to be told from one without an image.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from trimesh.visual.material import PBRMaterial

from texdiff.errors import InputError
from texdiff.uv.meshes.find_file import find_file
from texdiff.uv.meshes.mtl import decode, read_mtl
from texdiff.uv.meshes.part import Material, Part
from texdiff.uv.meshes.triangulate import triangulate_polygons

MAX_OBJ_BYTES = 4 << 30


@dataclass
class Lines:
    """The file's statements, sorted by kind."""

    vertices: list[str] = field(default_factory=list)
    uvs: list[str] = field(default_factory=list)
    normals: list[str] = field(default_factory=list)
    faces: list[str] = field(default_factory=list)
    materials: list[int] = field(default_factory=list)  # of each face: index into names
    names: dict[str, int] = field(default_factory=dict)  # as usemtl writes them, in order
    libraries: list[str] = field(default_factory=list)
    counts: list[tuple[int, int, int]] = field(default_factory=list)  # v, vt, vn read before each face


def read_obj(path: Path) -> list[Part]:
    """All parts of an OBJ file. V points up in the file.

    Raises:
        InputError: the file cannot be read, has no faces, or a face names a vertex that does not exist.
    """
    lines = read_lines(path)
    if not lines.faces:
        raise InputError(f"{path}: holds no faces; give a mesh")
    vertices = _floats(path, "v", lines.vertices, 3)
    uvs = _floats(path, "vt", lines.uvs, 2)
    normals = _floats(path, "vn", lines.normals, 3)
    corners, lengths = _corners(path, lines)
    corners[corners[:, 2] >= len(normals), 2] = -1  # a wrong normal costs nothing but the shading
    corners[(corners[:, 1] >= len(uvs)) | (corners[:, 1] < -1), 1] = -1  # a wrong UV costs its face its place, no more
    wrong = (corners[:, 0] >= len(vertices)) | (corners[:, 0] < 0)
    if wrong.any():
        number, have = int(corners[np.argmax(wrong), 0]) + 1, len(vertices)
        raise InputError(f"{path}: a face names vertex {number}, but the file has {have}; export the mesh again")

    starts = np.cumsum(lengths) - lengths
    has_uv = np.minimum.reduceat(corners[:, 1], starts) >= 0
    triangles, of_face = triangulate_polygons(vertices[corners[:, 0]], starts, lengths)
    materials = _materials(path, lines)
    names = list(lines.names)
    parts: list[Part] = []
    keys: set[str] = set()
    group = (2 * np.array(lines.materials) + ~has_uv)[of_face]  # of each triangle: its material's mapped, then others
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        if len(rows):
            material, unmapped = divmod(int(group[rows[0]]), 2)
            key = (names[material] or "unnamed") + (" (no UV)" if unmapped else "")
            while key in keys:  # a material may be called what another one's second part is
                key += " *"
            keys.add(key)
            uv = None if unmapped else uvs
            parts.append(_part(key, materials[material], corners[triangles[rows]], vertices, uv, normals))
    if not parts:
        raise InputError(f"{path}: no face has three corners; give a mesh")
    return parts


def read_lines(path: Path) -> Lines:
    """The statements of an OBJ file. Raises InputError for one that is too large."""
    if path.stat().st_size > MAX_OBJ_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, more than the limit of {MAX_OBJ_BYTES}; split the mesh")
    return _sort(decode(path.read_bytes()))


def _sort(text: str) -> Lines:
    lines = Lines()
    current = 0
    lists = {"v": lines.vertices, "vt": lines.uvs, "vn": lines.normals}
    for line in text.split("\n"):
        words = line.split(None, 1)
        if len(words) < 2:
            continue
        kind, rest = words
        if kind in lists:
            lists[kind].append(rest)
        elif kind == "f":
            lines.faces.append(rest)
            lines.materials.append(current)
            lines.counts.append((len(lines.vertices), len(lines.uvs), len(lines.normals)))
            if not lines.names:
                lines.names[""] = 0
        elif kind == "usemtl":
            current = lines.names.setdefault(rest.strip(), len(lines.names))
        elif kind == "mtllib":
            lines.libraries.append(rest.strip())
    return lines


def _floats(path: Path, kind: str, lines: list[str], columns: int) -> NDArray[np.float64]:
    """The first numbers of each line, [n, columns]; a coordinate that is left out is 0."""
    if not lines:
        return np.zeros((0, columns))
    try:
        words = [line.partition("#")[0].split()[:columns] for line in lines]
        if any(len(row) < columns for row in words):
            words = [row + ["0"] * (columns - len(row)) for row in words]
        return np.array(words, dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path}: a {kind} line cannot be read ({error}); export the mesh again") from None


def _corners(path: Path, lines: Lines) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices (v, vt, vn) of every corner, from 0, -1 where left out: [C, 3]; and the corners of every face: [P]."""
    split = [face.partition("#")[0].split() for face in lines.faces]
    lengths = np.array([len(face) for face in split], dtype=np.int64)
    words = [word for face in split for word in face]
    table: dict[str, tuple[int, int, int]] = {}
    try:
        for word in set(words):
            numbers = [int(number) if number else 0 for number in word.split("/")] + [0, 0]
            if max(map(abs, numbers)) >= 1 << 40:
                raise ValueError
            table[word] = (numbers[0], numbers[1], numbers[2])
    except ValueError:
        raise InputError(f"{path}: the face corner {word!r} cannot be read; export the mesh again") from None
    indices = np.array([table[word] for word in words], dtype=np.int64).reshape(-1, 3)
    before = np.repeat(np.array(lines.counts, dtype=np.int64), lengths, axis=0)  # negative: counted back from here
    relative = np.where(before + indices < 0, np.iinfo(np.int64).min // 2, before + indices)
    return np.where(indices < 0, relative, indices - 1), lengths


def _part(
    key: str,
    material: Material,
    corners: NDArray[np.int64],  # [T, 3, 3]: triangle, corner, (v, vt, vn)
    vertices: NDArray[np.float64],
    uvs: NDArray[np.float64] | None,
    normals: NDArray[np.float64],
) -> Part:
    if uvs is None:
        corners = corners * np.array([1, 0, 1])
    shaded = bool((corners[..., 2] >= 0).all())
    if not shaded:
        corners = corners * np.array([1, 1, 0])
    unique, faces = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    uv = None
    if uvs is not None:
        scale = np.array(material.properties.get("uv_scale", [1.0, 1.0]))
        offset = np.array(material.properties.get("uv_offset", [0.0, 0.0]))
        uv = uvs[unique[:, 1]] * scale + offset
    return Part(
        key=key,
        material=material,
        vertices=vertices[unique[:, 0]],
        faces=faces.reshape(-1, 3).astype(np.int64),
        uv=uv,
        problem=f"{len(corners)} of its triangles have no UV coordinates in the file",
        normals=normals[unique[:, 2]] if shaded else None,
    )


def find_libraries(path: Path, lines: Lines) -> tuple[list[Path], list[str]]:
    """The material files that mtllib names, and the statements that name one that is not there."""
    found, missing = [], []
    for library in lines.libraries:
        exact = find_file(library, [path.parent])
        # Several files on one line, or one file whose name holds spaces.
        for name in [library] if exact else re.split(r"(?<!\\)\s+", library):
            file = find_file(name, [path.parent])
            if file is None:
                missing.append(library)
            else:
                found.append(file)
    return found, missing


def _materials(path: Path, lines: Lines) -> list[Material]:
    """One per name in ``lines.names``; what is not defined anywhere says so."""
    known: dict[str, Material] = {}
    libraries, missing = find_libraries(path, lines)
    for library in libraries:
        known.update({**read_mtl(library, [path.parent]), **known})
    wanted = {name for name in lines.names if name}
    note = ""
    if missing and wanted - set(known):
        note = f"; mtllib names {missing[0]}, which does not exist"
        # Renamed by hand: the MTL file of the mesh's own name, or the only one of the folder, if it defines what is
        # missing.
        others = [file for file in sorted(path.parent.iterdir()) if file.suffix.lower() == ".mtl"]
        same = [file for file in others if file.stem.casefold() == path.stem.casefold()]
        for file in same[:1] or (others if len(others) == 1 else []):
            candidate = read_mtl(file, [path.parent])
            if wanted - set(known) <= set(candidate):
                for name in wanted - set(known):
                    properties = {**candidate[name].properties, "material_file": file.name}
                    known[name] = replace(candidate[name], properties=properties)
    only = next(iter(known.values()), None)
    if set(lines.names) == {""} and len(known) == 1 and only and only.image:  # no usemtl at all, and no choice either
        return [replace(only, properties={**only.properties, "material_assumed": only.name})]
    folded = {name.casefold(): material for name, material in known.items()}
    return [known.get(name) or folded.get(name.casefold()) or _undefined(name, note) for name in lines.names]


def _undefined(name: str, note: str) -> Material:
    def to_pbr() -> PBRMaterial:
        return PBRMaterial(name=name or None, metallicFactor=0.0, roughnessFactor=1.0)

    problem = f"is not defined in any material file{note}" if name else "has no material"
    return Material(name=name or "unnamed", problem=problem, to_pbr=to_pbr)
