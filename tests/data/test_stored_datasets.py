"""Datasets in object storage are those on a disk, and images of them are fetched when they are asked for."""

import shutil
from pathlib import Path

import pytest
from flaky_storage import FlakyFileSystem

from texdiff import storage
from texdiff.data.cache.files import digests, readable
from texdiff.data.cache.store import ArrayStore
from texdiff.data.check import check_dataset
from texdiff.data.prepare.parquet import to_parquet
from texdiff.data.records import read_records
from texdiff.errors import InputError
from texdiff.storage import copies
from texdiff.training.run.provenance import _licenses

PLACE = "flaky://bucket/dataset"
ALONE = {"mine": slice(None), "wait": lambda: None, "progress": False}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FlakyFileSystem.clean()
    storage._Said.failing = False
    copies.local_copies.cache_clear()
    monkeypatch.setattr(storage, "WAITS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def on_disk(make_dataset, tmp_path) -> Path:
    folder = make_dataset(tmp_path / "dataset", [0.5, 1.0, 0.3, 0.4, 0.6], held_out=2, license="CC0-1.0", repeats=2)
    for split in ("train", "validation"):
        shutil.copy(folder / split / "masks/0.png", folder / split / "layout.png")
        lines = (
            (folder / split / "metadata.jsonl")
            .read_text()
            .replace('"text"', '"layout_file_name": "layout.png", "text"')
        )
        (folder / split / "metadata.jsonl").write_text(lines)
    return folder


def send(folder: Path) -> None:
    storage.upload_files(folder, [path.relative_to(folder).as_posix() for path in folder.rglob("*.*")], PLACE)
    FlakyFileSystem.calls.clear()


def fetched() -> list[str]:
    return [path.rpartition("bucket/dataset/")[2] for function, path in FlakyFileSystem.calls if function == "get_file"]


def as_table(folder: Path) -> Path:
    (folder / "audit.jsonl").write_text("{}\n")
    to_parquet(folder, shard_bytes=5000)
    (folder / "audit.jsonl").unlink()
    (folder / "audit.parquet").unlink()
    return folder


@pytest.mark.parametrize("parquet", [False, True])
def test_records_are_those_on_a_disk(on_disk, parquet, tmp_path):
    send(as_table(shutil.copytree(on_disk, tmp_path / "table")) if parquet else on_disk)
    for split in ("train", "validation"):
        here, there = read_records(str(on_disk), split), read_records(PLACE, split)
        assert fetched() == ([] if parquet else [f"{split}/metadata.jsonl"])
        FlakyFileSystem.calls.clear()
        assert len(here) == len(there) > 0
        for one, other in zip(here, there, strict=True):
            for name in ("captions", "coverage", "repeats", "regularisation", "source"):
                assert getattr(one, name) == getattr(other, name)
            assert (one.image(), one.mask()) == (other.image(), other.mask())
        assert [record.layout() for record in read_records(PLACE, split, layout_column="layout")] == [
            record.layout() for record in read_records(str(on_disk), split, layout_column="layout")
        ]
        once = len(fetched())
        assert once == len({*fetched()}) > 0
        for record in there:
            record.image()
            assert (
                record.image.signature()
                == next(r for r in read_records(PLACE, split) if r.name == record.name).image.signature()
            )
        assert len(fetched()) == once
        FlakyFileSystem.calls.clear()
    names = [record.name for record in read_records(PLACE, "train")]
    assert names[1] == (f"{PLACE} train[1]" if parquet else f"{PLACE}/train/textures/1.png")
    assert _licenses([PLACE, str(on_disk)]) == {"CC0-1.0": 6}


def test_a_changed_image_is_fetched_anew(on_disk):
    send(on_disk)
    before = read_records(PLACE, "train")[0]
    content = before.image()
    storage.write(f"{PLACE}/train/textures/0.png", content + b"x")
    after = read_records(PLACE, "train")[0]
    assert after.image.signature() != before.image.signature()
    assert after.image() == content + b"x"


def test_what_is_missing_is_said_at_the_start(on_disk, tmp_path):
    with pytest.raises(InputError, match=r"data.dataset: flaky://bucket/dataset is not there; check the name of the"):
        read_records(PLACE, "train")
    storage.write(f"{PLACE}/photo.png", b"")
    with pytest.raises(InputError, match=r"flaky://bucket/dataset has neither train/metadata.jsonl nor data/train-\*"):
        read_records(PLACE, "train")
    (on_disk / "train/masks/1.png").unlink()
    send(on_disk)
    with pytest.raises(InputError, match=r"dataset/train/masks/1.png: does not exist, but .*metadata.jsonl, line 2"):
        read_records(PLACE, "train")
    records = read_records(PLACE, "train", missing_ok=True)
    assert len(records) == 3
    assert len(readable(records, ArrayStore(None, {}), resolution=64, say=False)) == 2


def test_a_shard_that_is_missing_is_said(on_disk):
    send(as_table(on_disk))
    shards = sorted(name for name in storage.find(f"{PLACE}/data") if name.startswith("train"))
    assert len(shards) > 1
    storage.remove(f"{PLACE}/data/{shards[0]}")
    with pytest.raises(InputError, match=rf"dataset/data: has {len(shards) - 1} shards of train, but their names say"):
        read_records(PLACE, "train")


def test_a_broken_connection_says_nothing_of_a_texture(on_disk):
    send(on_disk)
    records = read_records(PLACE, "train")
    FlakyFileSystem.cut()
    with pytest.raises(storage.ConnectionBroken):
        readable(records, ArrayStore(None, {}), resolution=64)
    FlakyFileSystem.cut(0)
    assert len(readable(records, ArrayStore(None, {}), resolution=64)) == 3


def test_a_start_that_a_broken_connection_ended_continues(on_disk, monkeypatch, tmp_path):
    send(on_disk)
    records = read_records(PLACE, "train")
    images = [record.image for record in records]
    original = FlakyFileSystem.get_file

    def breaks(self, rpath, lpath, *args, **kwargs):
        if "textures/1.png" in rpath:
            raise ConnectionError("connection reset by peer")
        original(self, rpath, lpath, *args, **kwargs)

    monkeypatch.setattr(FlakyFileSystem, "get_file", breaks)

    def start():
        store = ArrayStore(tmp_path / "store", {})
        return digests(images, store, **ALONE)

    with pytest.raises(storage.ConnectionBroken, match=r"train/textures/1.png: the connection is broken"):
        start()
    monkeypatch.setattr(FlakyFileSystem, "get_file", original)
    FlakyFileSystem.calls.clear()
    on_a_disk = digests([record.image for record in read_records(str(on_disk), "train")], ArrayStore(None, {}), **ALONE)
    assert start().tolist() == on_a_disk.tolist()
    assert "train/textures/0.png" not in fetched()
    assert "train/textures/1.png" in fetched()


@pytest.mark.slow
def test_a_dataset_is_checked_where_it_is(on_disk):
    (on_disk / "train/textures/1.png").write_bytes(b"no image")
    (on_disk / "train/textures/2.png").unlink()
    *here, said = check_dataset(str(on_disk))
    *there, said_there = check_dataset(f"file://{on_disk}")
    assert len(here) == len(there) >= 2
    assert said.replace(str(on_disk), f"file://{on_disk}") == said_there
    assert [line.split(":")[0] for line in here] == [line.split(":")[0] for line in there]
    assert any(f"file://{on_disk}/train/textures/2.png: is not there" in line for line in there)
    with pytest.raises(InputError, match=r"memory://nothing: is not there; check the name of the bucket"):
        [*check_dataset("memory://nothing")]
