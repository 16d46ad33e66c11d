"""A written dataset as Parquet: shards with the pictures inside, and the audit as a table of typed columns."""

import json
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_SHARD_BYTES = 256 << 20  # of pictures; what the hub's own writer aims at is of that order
_GROUP_ROWS, _GROUP_BYTES = 50, 32 << 20  # in memory at a time, and read at a time by the hub's viewer
_AUDIT_ROWS = 4096  # in memory at a time
_PICTURES = {"image": "file_name"} | {name: f"{name}_file_name" for name in ("mask", "surface", "layout")}

Row = dict[str, Any]


def to_parquet(folder: Path, shard_bytes: int = _SHARD_BYTES) -> None:
    """Turn train/ and validation/ of a written dataset into data/SPLIT-00000-of-0000N.parquet with the pictures inside,
    and write audit.parquet, with the rows of audit.jsonl. Few rows are in memory at a time."""
    import datasets
    import pyarrow as pa

    places = [place for split in ("train", "validation") if (place := folder / split).is_dir()]
    types = _types(row for place in places for row in _rows(place / "metadata.jsonl"))
    pictures = {column: key for column, key in _PICTURES.items() if key in types}
    others = pa.schema([(key, kind) for key, kind in types.items() if key not in pictures.values()])
    features = {column: datasets.Image() for column in pictures} | datasets.Features.from_arrow_schema(others)
    schema = datasets.Features(features).arrow_schema
    (folder / "data").mkdir()
    for place in places:
        rows, shards = _rows(place / "metadata.jsonl"), _plan(place, pictures, shard_bytes)
        for number, counts in enumerate(shards):
            groups = ([_with_pictures(row, place, pictures) for row in islice(rows, count)] for count in counts)
            _write(folder / "data" / f"{place.name}-{number:05d}-of-{len(shards):05d}.parquet", schema, groups)
    audit = folder / "audit.jsonl"
    rows = _rows(audit)
    some = iter(lambda: list(islice(rows, _AUDIT_ROWS)), [])
    _write(folder / "audit.parquet", pa.schema(list(_types(_rows(audit)).items())), some)
    for place in places:
        shutil.rmtree(place)


def _rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _types(rows: Iterable[Row]) -> dict[str, Any]:
    """Arrow's type of each column: of what there is in any row, as a cell may be null or absent in others."""
    import pyarrow as pa

    found: dict[str, set[type]] = {}
    for row in rows:
        for key, cell in row.items():
            found.setdefault(key, set()).add(type(cell))
    types = {str: pa.string(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), list: pa.list_(pa.string())}
    of_nothing = {"without_position": pa.float64()}  # of no texture where none has a mesh; else it is a text
    columns = {}
    for key, kinds in found.items():
        kinds -= {type(None)}
        kind = next((kind for kind in (list, str, float, int, bool) if kind in kinds), None)
        columns[key] = types[kind] if kind else of_nothing.get(key, pa.string())
    return columns


def _plan(place: Path, pictures: dict[str, str], shard_bytes: int) -> list[list[int]]:
    """Of each shard of a split, how many rows each of its groups has."""
    shards: list[list[int]] = [[0]]
    in_shard = in_group = 0
    for row in _rows(place / "metadata.jsonl"):
        needed = sum((place / row[key]).stat().st_size for key in pictures.values() if row.get(key))
        if in_shard and in_shard + needed > shard_bytes:
            shards.append([0])
            in_shard = in_group = 0
        elif shards[-1][-1] == _GROUP_ROWS or (in_group and in_group + needed > _GROUP_BYTES):
            shards[-1].append(0)
            in_group = 0
        shards[-1][-1] += 1
        in_shard, in_group = in_shard + needed, in_group + needed
    return shards


def _with_pictures(row: Row, place: Path, pictures: dict[str, str]) -> Row:
    """A row with the pictures' bytes in the place of their names."""
    cells = {key: cell for key, cell in row.items() if key not in pictures.values()}
    for column, key in pictures.items():
        if name := row.get(key):
            cells[column] = {"bytes": (place / name).read_bytes(), "path": Path(name).name}
    return cells


def _write(path: Path, schema: Any, groups: Iterable[list[Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    several = [field.name for field in schema if pa.types.is_list(field.type)]
    with pq.ParquetWriter(path, schema) as writer:
        for group in groups:
            for row in group:  # where one row has several, those of the others are lists too
                row |= {key: [row[key]] for key in several if isinstance(row.get(key), str)}
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
