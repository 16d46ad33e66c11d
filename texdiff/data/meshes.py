"""Which mesh each texture of a dataset comes from: DATASET/meshes.json.

It names places on this machine, so it is never uploaded; where it or a mesh is missing, a texture just has no mesh.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from texdiff.data.reading import content_hash, write_whole
from texdiff.data.writer import Entry
from texdiff.errors import InputError

MESHES = "meshes.json"


@dataclass(frozen=True, kw_only=True)
class Worn:
    """A mesh, and those of its parts that wear a texture."""

    path: Path
    parts: tuple[str, ...]  # keys of load_scene(path).geometry
    share: float  # of the mesh's textured surface, 0-1


def write_meshes(folder: Path, entries: Iterable[Entry], output: Path) -> None:
    """Write meshes.json of a dataset in `folder` that will stand at `output`: asset_id -> mesh and texture content.

    Paths are relative to the dataset, so that both can be moved together.
    """
    rows = {}
    for entry in sorted(entries, key=lambda entry: entry.asset_id):
        if entry.assets[0].mask is None:  # else it comes from a picture
            mesh = Path(os.path.relpath(entry.assets[0].path, output))
            rows[entry.asset_id] = {"mesh": mesh.as_posix(), "content": entry.content}
    write_whole(folder / MESHES, json.dumps(rows, indent=1, ensure_ascii=False).encode())


def find_mesh(record_name: str) -> Worn | None:
    """The mesh that wears the texture of `Record.name`, and its parts that do; None where there is none any more."""
    place = Path(record_name)
    try:
        dataset = place.parents[2]  # DATASET/SPLIT/textures/ID.png
        row = json.loads((dataset / MESHES).read_text("utf-8"))[place.stem]
        mesh, content = dataset / row["mesh"], row["content"]
        from texdiff.uv.mesh import read_textures  # brings trimesh and scipy: only where there is a mesh

        atlases = read_textures(mesh).atlases
    except (OSError, ValueError, LookupError, TypeError, InputError):
        return None
    for atlas in atlases:
        if content_hash(atlas.texture) == content:
            total = sum(float(one.surface.sum()) for one in atlases)
            return Worn(path=mesh, parts=atlas.parts, share=float(atlas.surface.sum()) / total if total else 0.0)
    return None
