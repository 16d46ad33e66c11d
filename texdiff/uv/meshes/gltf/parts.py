"""Parts of a glTF file: one per primitive, with the UV set that its base-colour texture names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from trimesh.transformations import quaternion_matrix

from texdiff.errors import InputError
from texdiff.uv.meshes.gltf.document import Document, dig, numbers, open_gltf
from texdiff.uv.meshes.gltf.draco import decode, is_compressed
from texdiff.uv.meshes.gltf.materials import UVLookup, read_materials
from texdiff.uv.meshes.part import Material, Part, PartError

TRIANGLES, STRIP, FAN = 4, 5, 6


def read_gltf(path: Path) -> list[Part]:
    """All parts of a .glb or .gltf file that are in its scene. V points down in the file, up in the parts.

    Raises:
        InputError: the file as a whole cannot be read, or has no triangles at all.
    """
    return parts_of(open_gltf(path))


def parts_of(document: Document) -> list[Part]:
    """As `read_gltf`, of a document that is open."""
    materials, lookups = read_materials(document)
    places = places_of(document)
    parts: list[Part] = []
    keys: dict[str, int] = {}
    problems: list[str] = []
    shown: set[int] = set()
    unused: dict[int, str] = {}  # materials that no part shows, and why
    for index, mesh in enumerate(document.objects("meshes")):
        transforms = places.get(index, ())
        primitives = dig(mesh, "primitives", kind=list, default=[])
        if places and not transforms:  # in no node of the scene: never drawn
            unused |= dict.fromkeys(_materials_of(primitives), "is used outside of the default scene only")
            continue
        for number, primitive in enumerate(primitives):
            if dig(primitive, "mode", kind=int, default=TRIANGLES) not in (TRIANGLES, STRIP, FAN):
                continue  # points and lines have no texels
            name = dig(mesh, "name", kind=str, default="") or f"mesh {index}"
            key = _unique(name if len(primitives) == 1 else f"{name} {number}", keys)
            which = dig(primitive, "material", kind=int, default=-1)
            if not 0 <= which < len(materials) - 1:
                which = -1  # the last one means "no material"
            try:
                part = _part(document, primitive, key, materials[which], lookups[which], transforms or (np.eye(4),))
            except PartError as error:
                problems.append(f"{key} {error}")
                part = _broken(key, materials[which], f"its part {key} {error}")
            parts.append(replace(part, place=(index, number)))
            shown.add(which)
            unused |= dict.fromkeys(_variants(primitive), "is used by another material variant only")
    for which, reason in unused.items():
        if which not in shown and 0 <= which < len(materials) - 1 and materials[which].image is not None:
            material = replace(materials[which], image=None, problem=f"{reason}; make it the default to use it")
            parts.append(_broken(_unique(material.name, keys), material, ""))
    if not any(len(part.faces) for part in parts):
        reason = problems[0] if problems else "holds no triangles"
        raise InputError(f"{document.path}: {reason}; give a mesh that can be read")
    return parts


def _materials_of(primitives: list[Any]) -> list[int]:
    return [which for primitive in primitives if (which := dig(primitive, "material", kind=int)) is not None]


def _variants(primitive: Any) -> list[int]:
    """Materials that KHR_materials_variants can put in the place of the primitive's own."""
    return _materials_of(dig(primitive, "extensions", "KHR_materials_variants", "mappings", kind=list, default=[]))


def _unique(name: str, keys: dict[str, int]) -> str:
    """The name, numbered where it is taken; ``keys`` holds the last number tried for each name."""
    key = name
    while key in keys:
        keys[name] += 1
        key = f"{name} ({keys[name]})"
    keys[key] = 1
    return key


def _broken(key: str, material: Material, reason: str) -> Part:
    """A part that cannot be read still tells why its texture has no triangles."""
    nothing = np.zeros((0, 3))
    return Part(key=key, material=material, vertices=nothing, faces=nothing.astype(np.int64), uv=None, problem=reason)


def _part(
    document: Document,
    primitive: dict[str, Any],
    key: str,
    material: Material,
    lookup: UVLookup,
    transforms: tuple[NDArray[np.float64], ...],
) -> Part:
    attributes = dig(primitive, "attributes", kind=dict, default={})
    decoded, faces = decode(document, primitive) if is_compressed(document, primitive) else ({}, None)

    def values(name: str, columns: int) -> NDArray[np.float64]:
        if name in decoded and decoded[name].shape[1] == columns:
            return decoded[name]
        return document.accessor(attributes.get(name), columns)

    vertices = values("POSITION", 3)
    if faces is None:
        faces = faces_of(document, primitive, len(vertices))
    normals = None
    if "NORMAL" in attributes:
        normals = values("NORMAL", 3)
        normals = normals if normals.shape == vertices.shape else None
    uv, problem = None, ""
    texcoord = f"TEXCOORD_{lookup.set}"
    if texcoord in attributes:
        uv = values(texcoord, 2)
        if len(uv) != len(vertices):
            raise PartError(f"has {len(vertices)} vertices but {len(uv)} UV coordinates")
        uv = lookup.apply(uv) * [1, -1] + [0, 1]
    else:
        others = sorted(name for name in attributes if str(name).startswith("TEXCOORD_"))
        problem = "it has no UV coordinates"
        if others:
            problem = f"it has no {texcoord}, which its texture names (but {', '.join(others)})"
    return Part(
        key=key, material=material, vertices=vertices, faces=faces, uv=uv, normals=normals, transforms=transforms,
        problem=problem,
    )  # fmt: skip


def faces_of(document: Document, primitive: dict[str, Any], count: int) -> NDArray[np.int64]:
    """Triangles [F, 3] of a primitive of `count` vertices. Raises PartError."""
    if "indices" in primitive:
        flat = document.accessor(primitive["indices"], 1)[:, 0].astype(np.int64)
        if flat.size and not 0 <= flat.min() <= flat.max() < count:
            raise PartError(f"names vertex {flat.max()} of {count}")
    else:
        flat = np.arange(count)
    mode = dig(primitive, "mode", kind=int, default=TRIANGLES)
    if mode == TRIANGLES:
        return flat[: len(flat) // 3 * 3].reshape(-1, 3)
    if len(flat) < 3:
        return np.zeros((0, 3), dtype=np.int64)
    if mode == FAN:
        return np.stack([np.full(len(flat) - 2, flat[0]), flat[1:-1], flat[2:]], axis=1)
    strip = np.stack([flat[:-2], flat[1:-1], flat[2:]], axis=1)
    strip[1::2] = strip[1::2][:, [1, 0, 2]]  # every other one is wound the other way
    return strip


def places_of(document: Document) -> dict[int, tuple[NDArray[np.float64], ...]]:
    """The instances of each mesh: 4 x 4 world transforms by the mesh's index. Empty where no node holds a mesh."""
    nodes = document.objects("nodes")
    children = {child for node in nodes for child in dig(node, "children", kind=list, default=[]) if _is_index(child)}
    scene = dig(document.tree, "scene", kind=int, default=0)
    roots = dig(document.tree, "scenes", scene, "nodes", kind=list)
    if roots is None:
        roots = [index for index in range(len(nodes)) if index not in children]
    found: dict[int, list[NDArray[np.float64]]] = {}
    seen: set[int] = set()  # each node has one parent; a file that says otherwise must not keep us busy
    queue = [(root, np.eye(4)) for root in reversed(roots)]
    while queue:
        index, above = queue.pop()
        if not _is_index(index) or not 0 <= index < len(nodes) or index in seen:
            continue
        seen.add(index)
        node = nodes[index]
        transform = above @ _local(node)
        mesh = dig(node, "mesh", kind=int)
        if mesh is not None:
            found.setdefault(mesh, []).append(transform)
        queue.extend((child, transform) for child in reversed(dig(node, "children", kind=list, default=[])))
    return {mesh: tuple(transforms) for mesh, transforms in found.items()}


def _is_index(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _local(node: dict[str, Any]) -> NDArray[np.float64]:
    """A node's own transform: its matrix, else translation * rotation * scale."""
    matrix = numbers(node.get("matrix"), 16)
    if matrix is not None:
        return matrix.reshape(4, 4).T
    transform = np.eye(4)
    rotation = numbers(node.get("rotation"), 4)
    if rotation is not None:
        transform = np.asarray(quaternion_matrix(rotation[[3, 0, 1, 2]]), dtype=np.float64)
    scale = numbers(node.get("scale"), 3)
    if scale is not None:
        transform[:3, :3] *= scale
    translation = numbers(node.get("translation"), 3)
    if translation is not None:
        transform[:3, 3] = translation
    return transform
