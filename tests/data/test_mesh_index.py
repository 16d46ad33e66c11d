"""From a texture of a dataset back to the mesh that wears it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from texdiff.cli import main
from texdiff.data.mesh_index import find_mesh
from texdiff.data.prepare.parquet import to_parquet
from texdiff.data.records import read_records


def test_each_texture_finds_its_mesh_also_after_both_moved(
    write_mesh: Callable, draw: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_mesh(tmp_path / f"a/meshes/cup{number}.glb", draw(number))
    assert main(["prepare", str(tmp_path / "a/meshes"), "--output", str(tmp_path / "a/set"), "--workers", "1"]) == 0
    (tmp_path / "a").rename(tmp_path / "b")
    records = read_records(str(tmp_path / "b/set"), "train")
    rows = [json.loads(line) for line in (tmp_path / "b/set/train/metadata.jsonl").read_text().splitlines()]
    assert len(records) >= 2
    for record, row in zip(records, rows, strict=True):
        found = find_mesh(record.name)
        assert found is not None
        assert found.path.resolve() == tmp_path / "b/meshes" / row["source"]
        assert found.parts
        assert found.share == 1

    shutil.copytree(tmp_path / "b/set", tmp_path / "b/shards")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    to_parquet(tmp_path / "b/shards", shard_bytes=1)
    assert len(list((tmp_path / "b/shards/data").glob("train-*"))) == len(rows)
    for record, row in zip(read_records(str(tmp_path / "b/shards"), "train"), rows, strict=True):
        found = find_mesh(record.name)
        assert found is not None
        assert found.path.resolve() == tmp_path / "b/meshes" / row["source"]

    (tmp_path / "b/meshes" / rows[0]["source"]).unlink()
    assert find_mesh(records[0].name) is None
    assert find_mesh("hub/set train[0]") is None
