"""A mesh file as a trimesh.Scene, for export to glTF."""

from collections.abc import Iterable
from pathlib import Path

import trimesh
from trimesh.parent import Geometry
from trimesh.scene.transforms import SceneGraph
from trimesh.visual import TextureVisuals

from texdiff.uv.meshes import read_parts
from texdiff.uv.meshes.part import Part


def read_scene(path: Path) -> trimesh.Scene:
    """The mesh file as a scene: a geometry per part, its ``visual.uv`` v up as the base-colour texture is looked up
    (the right UV set, texture transform applied), its ``visual.material`` a ``PBRMaterial``.

    Raises:
        InputError: the file as a whole cannot be read.
    """
    return scene_of(read_parts(path))


def scene_of(parts: Iterable[Part]) -> trimesh.Scene:
    """As `read_scene`, of a mesh file's parts."""
    parts = [part for part in parts if len(part.faces)]
    materials = {id(part.material): part.material.to_pbr() for part in parts}
    graph = SceneGraph()
    geometry: dict[str, Geometry] = {}
    for part in parts:
        geometry[part.key] = trimesh.Trimesh(
            vertices=part.vertices,
            faces=part.faces,
            vertex_normals=part.normals,
            visual=TextureVisuals(uv=part.uv, material=materials[id(part.material)]),
            process=False,
        )
        for number, transform in enumerate(part.transforms):
            node = part.key if number == 0 else f"{part.key} #{number + 1}"
            graph.update(frame_to=node, matrix=transform, geometry=part.key)
    return trimesh.Scene(geometry=geometry, graph=graph)
