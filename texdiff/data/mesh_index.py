"""Which mesh each texture of a dataset comes from: DATASET/meshes.json.

It holds paths on this machine, so it is never uploaded; where it or a mesh is missing, a texture has no mesh.
"""

import json
import re
from pathlib import Path
from urllib.parse import unquote

from texdiff.errors import InputError
from texdiff.uv.image import content_hash
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.part import MeshUse

MESHES = "meshes.json"


def find_mesh(record_name: str) -> MeshUse | None:
    """The mesh that uses the texture of `Record.name`, and which of its parts do; None where it no longer exists."""
    try:
        dataset, asset_id = _place(record_name)
        row = json.loads((dataset / MESHES).read_text("utf-8"))[asset_id]
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


def _place(record_name: str) -> tuple[Path, str]:
    """The dataset's folder and the texture's asset_id. Raises LookupError where it is of no folder."""
    row = re.fullmatch(r"(.+) (\w+)\[(\d+)\]", record_name)  # of a table
    if row is None:
        place = Path(record_name)  # DATASET/SPLIT/textures/ID.png
        return place.parents[2], place.stem
    import pyarrow.parquet as pq

    dataset, split, number = Path(row[1]), row[2], int(row[3])
    for path in sorted(dataset.glob(f"data/{split}-*.parquet")):
        with pq.ParquetFile(path) as shard:
            for group in range(shard.num_row_groups):
                count = shard.metadata.row_group(group).num_rows
                if number < count:
                    return dataset, shard.read_row_group(group, columns=["asset_id"]).column(0)[number].as_py()
                number -= count
    raise LookupError(record_name)
