"""Which mesh each texture of a dataset comes from: DATASET/meshes.json.

It holds paths on this machine, so it is never uploaded; where it or a mesh is missing, a texture has no mesh.
"""

import json
from pathlib import Path
from urllib.parse import unquote

from texdiff.errors import InputError
from texdiff.uv.image import content_hash
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.part import MeshUse

MESHES = "meshes.json"


def find_mesh(record_name: str) -> MeshUse | None:
    """The mesh that uses the texture of `Record.name`, and which of its parts do; None where it no longer exists."""
    place = Path(record_name)
    try:
        dataset = place.parents[2]  # DATASET/SPLIT/textures/ID.png
        row = json.loads((dataset / MESHES).read_text("utf-8"))[place.stem]
        quoted = row.get("mesh_quoted")  # of a name that is not UTF-8
        mesh = dataset / (unquote(quoted, errors="surrogateescape") if quoted else row["mesh"])
        content = row["content"]
        atlases = read_atlases(mesh).atlases
    except (OSError, ValueError, LookupError, TypeError, InputError):
        return None
    for atlas in atlases:
        if content_hash(atlas.texture) == content:
            total = sum(float(a.mesh_area.sum()) for a in atlases)
            return MeshUse(path=mesh, parts=atlas.parts, share=float(atlas.mesh_area.sum()) / total if total else 0.0)
    return None
