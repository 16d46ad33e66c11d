"""Parquet shards and the hub."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from texdiff.cli import main
from texdiff.data.check import check_dataset
from texdiff.data.prepare import prepare_dataset
from texdiff.data.prepare.publish import to_parquet

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory, write_mesh: Callable, draw: Callable) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    for number in range(4):
        write_mesh(folder / f"cup{number}.glb", draw(number))
        (folder / f"cup{number}.txt").write_text(f"cup {number}")
    return folder


def test_parquet_holds_what_the_folder_holds(meshes: Path, tmp_path: Path) -> None:
    prepare_dataset([str(meshes)], tmp_path / "files", workers=1)
    prepare_dataset([str(meshes)], tmp_path / "parquet", workers=1, format="parquet")
    assert not (tmp_path / "parquet" / "train").exists()
    files = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "files"), cache_dir=str(tmp_path / "c"))
    shards = datasets.load_dataset(str(tmp_path / "parquet"), cache_dir=str(tmp_path / "c"))
    assert files.keys() == shards.keys()
    for split in files:
        assert len(files[split]) == len(shards[split])
        for one, other in zip(files[split], shards[split], strict=True):
            assert one.keys() == other.keys()
            for key in one:
                if key in ("image", "mask"):
                    np.testing.assert_array_equal(np.asarray(one[key]), np.asarray(other[key]))
                else:
                    assert one[key] == other[key]
    assert list(check_dataset(str(tmp_path / "parquet")))[-1].startswith("0 errors")


def test_shards_are_bounded_and_in_order(meshes: Path, tmp_path: Path) -> None:
    prepare_dataset([str(meshes)], tmp_path / "out", workers=1, validation_fraction=0)
    rows = [json.loads(line) for line in (tmp_path / "out" / "train" / "metadata.jsonl").read_text().splitlines()]
    size = (tmp_path / "out" / "train" / rows[0]["file_name"]).stat().st_size
    to_parquet(tmp_path / "out", shard_bytes=int(2.5 * size))
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    loaded = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "c"))
    assert loaded["asset_id"] == [row["asset_id"] for row in rows]


def test_the_hub_gets_the_folder_or_says_why_not(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import huggingface_hub

    asked = []

    def create(self: object, repository: str, **options: object) -> str:
        asked.append((repository, options))
        return f"hub/{repository}"

    def upload(self: object, *, folder_path: Path, **options: object) -> None:
        if "refused" in str(options["repo_id"]):
            raise OSError("403\nForbidden")
        asked.append((str(folder_path), options))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    command = ["prepare", str(meshes / "cup0.glb"), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert main([*command, "--push_to_hub", "me/cups"]) == 0
    assert asked == [
        ("me/cups", {"repo_type": "dataset", "private": True, "exist_ok": True}),
        (str(tmp_path / "out"), {"repo_type": "dataset", "repo_id": "me/cups", "ignore_patterns": ["meshes.json"]}),
    ]
    assert capsys.readouterr().out.splitlines()[-1] == "hub/me/cups"
    assert main([*command, "--push_to_hub", "me/refused"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("texdiff: error: --push_to_hub me/refused: 403 Forbidden; the dataset itself is complete")
    assert (tmp_path / "out" / "train" / "metadata.jsonl").is_file()
