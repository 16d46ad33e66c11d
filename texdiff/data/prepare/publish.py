"""Other shapes of a written dataset: Parquet shards, and a repository on the hub."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from texdiff.data.mesh_index import MESHES
from texdiff.errors import InputError, one_line

_SHARD_BYTES = 256 << 20  # of images; what the hub's own writer aims at is of that order
_GROUP_ROWS = 50  # rows held in memory at a time, and read at a time by the hub's viewer


def to_parquet(folder: Path, shard_bytes: int = _SHARD_BYTES) -> None:
    """Turn train/ and validation/ of a written dataset into data/SPLIT-00000-of-0000N.parquet, images inside."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split in ("train", "validation"):
        place = folder / split
        if not place.is_dir():
            continue
        rows = [json.loads(line) for line in (place / "metadata.jsonl").read_text("utf-8").splitlines()]
        schema = datasets.Features(_features(datasets, rows[0])).arrow_schema
        shards = list(_shards(rows, place, shard_bytes))
        (folder / "data").mkdir(exist_ok=True)
        for number, shard in enumerate(shards):
            path = folder / "data" / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            with pq.ParquetWriter(path, schema) as writer:
                for start in range(0, len(shard), _GROUP_ROWS):
                    group = [_row(row, place) for row in shard[start : start + _GROUP_ROWS]]
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
        shutil.rmtree(place)


def push_to_hub(folder: Path, repository: str) -> str:
    """Upload a written dataset as a private dataset repository; returns its address.

    Raises InputError where the hub refuses or cannot be reached; the folder is not changed.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi()
    try:
        address = api.create_repo(repository, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=folder, ignore_patterns=[MESHES])
    except Exception as error:  # network, rights, names: the library and what is below it raise all kinds
        reason = one_line(error)[:300]
        raise InputError(f"--push_to_hub {repository}: {reason}; the dataset itself is complete, in {folder}") from None
    return str(address)


def _features(datasets: Any, row: dict[str, Any]) -> dict[str, Any]:
    value, several = datasets.Value, datasets.List
    types = {str: value("string"), float: value("float64"), int: value("int64"), list: several(value("string"))}
    others = {key: types[type(cell)] for key, cell in row.items() if not key.endswith("file_name")}
    return {column: datasets.Image() for column, _ in _images(row)} | others


def _images(row: dict[str, Any]) -> list[tuple[str, str]]:
    """(column, key in the row) of each image of a row."""
    known = {"image": "file_name", "mask": "mask_file_name", "surface": "surface_file_name"}
    known["layout"] = "layout_file_name"
    return [(column, key) for column, key in known.items() if key in row]


def _row(row: dict[str, Any], place: Path) -> dict[str, Any]:
    images = {
        column: {"bytes": (place / row[key]).read_bytes(), "path": Path(row[key]).name} for column, key in _images(row)
    }
    return images | {key: cell for key, cell in row.items() if not key.endswith("file_name")}


def _shards(rows: list[dict[str, Any]], place: Path, shard_bytes: int) -> Iterator[list[dict[str, Any]]]:
    shard: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        needed = sum((place / row[key]).stat().st_size for _, key in _images(row))
        if shard and size + needed > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(row)
        size += needed
    yield shard
