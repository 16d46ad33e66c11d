"""Parquet: the same records as of the folder, byte for byte, and the audit with types."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from texdiff.data.cache.files import digests
from texdiff.data.cache.store import ArrayStore
from texdiff.data.check import check_dataset
from texdiff.data.prepare import parquet, prepare_dataset
from texdiff.data.prepare.parquet import to_parquet
from texdiff.data.records import read_records
from texdiff.training.run.provenance import _licenses

datasets = pytest.importorskip("datasets")
AUDIT = [
    {"kept": True, "reason": None, "meshes": ["a.glb", "b.glb"], "islands": 3, "coverage": 1, "without_position": None},
    {"kept": True, "reason": None, "meshes": ["c.glb"], "islands": 4, "coverage": 0.5, "without_position": None},
    {"kept": False, "reason": "is empty", "meshes": ["ä.glb"], "same_as": "a"},
]


@pytest.fixture
def written(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A written dataset with licences, surface files and an audit."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "written"
    shutil.copytree(dataset, folder)
    for path in folder.glob("*/metadata.jsonl"):
        shutil.copytree(path.parent / "masks", path.parent / "surfaces")
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        for number, row in enumerate(rows):
            row |= {"license": ("CC0-1.0", "CC-BY-4.0")[number % 2], "author": "Ännchen", "repeats": number + 1}
            row |= {"surface_file_name": row["mask_file_name"].replace("masks", "surfaces")}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "audit.jsonl").write_text("".join(json.dumps(row) + "\n" for row in AUDIT))
    return folder


@pytest.fixture
def converted(written: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(written, tmp_path / "converted")
    to_parquet(folder)
    return folder


def told(folder: Path, split: str) -> list[tuple[object, ...]]:
    """All that records say, but for their names."""
    return [
        (r.image(), r.mask(), r.surface(), r.captions, r.coverage, r.repeats, r.regularisation, r.source)
        for r in read_records(str(folder), split, needs_surface=True)
    ]


def test_records_are_the_same_byte_for_byte(written: Path, converted: Path, tmp_path: Path) -> None:
    assert sorted(path.name for path in converted.iterdir()) == ["audit.jsonl", "audit.parquet", "data"]
    for split in ("train", "validation"):
        assert told(converted, split) == told(written, split)
    for record in read_records(str(converted), "train"):
        cells = (record.image, record.mask, record.surface)
        assert [cell.rows.column_names for cell in cells] == [["image"], ["mask"], ["surface"]]  # no cell reads others
    keys = []
    for folder in (written, converted):
        records = read_records(str(folder), "train")
        sources = [source for record in records for source in (record.image, record.mask)]
        keys.append(
            digests(
                sources, ArrayStore(tmp_path / "store" / folder.name), slice(None), lambda: None, progress=False
            ).tolist()
        )
    assert keys[0] == keys[1]


def test_licences_and_authors_are_carried(written: Path, converted: Path) -> None:
    loaded = datasets.load_dataset(str(converted), split="train")
    assert loaded["author"] == ["Ännchen"] * 6
    assert _licenses([str(written)]) == _licenses([str(converted)]) == {"CC-BY-4.0": 3, "CC0-1.0": 3}


def test_the_audit_has_the_same_rows_and_types_of_all_of_them(converted: Path) -> None:
    table = pq.read_table(converted / "audit.parquet")
    for row, line in zip(table.to_pylist(), AUDIT, strict=True):
        assert row == dict.fromkeys(row) | line
    strings = pa.list_(pa.string())
    assert {field.name: field.type for field in table.schema} == {
        "kept": pa.bool_(), "reason": pa.string(), "meshes": strings, "islands": pa.int64(), "coverage": pa.float64(),
        "without_position": pa.float64(), "same_as": pa.string(),
    }  # fmt: skip


def test_types_are_of_all_rows(written: Path, tmp_path: Path) -> None:
    path = written / "train" / "metadata.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    del rows[0]["coverage"], rows[0]["surface_file_name"]
    rows[2]["text"] = ["one", "two"]
    rows[3] |= {"title": "later", "coverage": 1}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    converted = shutil.copytree(written, tmp_path / "converted")
    to_parquet(converted)
    loaded = datasets.load_dataset(str(converted))
    assert loaded["train"]["text"][1:3] == [["colours number 1"], ["one", "two"]]
    assert loaded["train"]["title"] == [None, None, None, "later", None, None]
    assert loaded["validation"].features == loaded["train"].features
    for one, other in zip(read_records(str(converted), "train"), read_records(str(written), "train"), strict=True):
        assert (one.captions, one.coverage, one.surface is None) == (
            other.captions,
            other.coverage,
            other.surface is None,
        )


def test_shards_and_groups_are_bounded_and_in_order(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (written / "train" / "metadata.jsonl").read_text().splitlines()]
    pictures = [[written / "train" / row[key] for key in row if key.endswith("file_name")] for row in rows]
    sizes = [sum(path.stat().st_size for path in of) for of in pictures]
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 1)
    to_parquet(written, shard_bytes=sum(sizes[:4]))
    files = [pq.ParquetFile(path) for path in sorted((written / "data").glob("train-*"))]
    assert [file.metadata.num_rows for file in files] == [4, 2]
    assert [file.metadata.num_row_groups for file in files] == [4, 2]
    loaded = datasets.load_dataset(str(written), split="train")
    assert loaded["asset_id"] == [row["asset_id"] for row in rows]


@pytest.mark.slow
def test_parquet_holds_what_the_folder_holds_whatever_ends_it(
    write_mesh: Callable, draw: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    for number in range(4):
        write_mesh(tmp_path / "in" / f"cup{number}.glb", draw(number))
    source, output = [str(tmp_path / "in")], tmp_path / "out"
    prepare_dataset(source, output, workers=1)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    copy = shutil.copytree(output, tmp_path / "copy")
    files = datasets.load_dataset("imagefolder", data_dir=str(copy))

    def full(self: pq.ParquetWriter, table: pa.Table) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match="No space left"):
            prepare_dataset(source, output, workers=1, format="parquet")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before

    prepare_dataset(source, output, workers=1, format="parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "hf", "in", "out"]
    assert not (output / "train").exists()
    assert (output / "audit.jsonl").read_bytes() == before[output / "audit.jsonl"]
    shards = datasets.load_dataset(str(output))
    assert files.keys() == shards.keys()
    for split in files:
        for one, other in zip(files[split], shards[split], strict=True):
            assert one.keys() == other.keys()
            for key in one:
                if key in ("image", "mask", "surface", "layout"):
                    np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]))
                else:
                    assert one[key] == other[key]
    assert list(check_dataset(str(output)))[-1].startswith("0 errors")
