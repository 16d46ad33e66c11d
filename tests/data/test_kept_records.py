"""Records of large datasets are kept in the user's cache folder: the same as read anew, and never of an older file."""

import json
import os
from functools import partial
from pathlib import Path

import pytest

from texdiff.config import SourceConfig
from texdiff.data import columns
from texdiff.data.cache.keys import as_keys, key_of
from texdiff.data.columns import Column, pick
from texdiff.data.records import kept, read_records, read_sources
from texdiff.errors import InputError


@pytest.fixture
def dataset(make_dataset, tmp_path: Path, monkeypatch) -> Path:
    """Of several batches of rows."""
    monkeypatch.setattr(columns, "_ROWS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_dataset(tmp_path / "set", [0.5, 0.4, 0.3, 0.6, 0.7], held_out=1, text=["a crate", "wood"])


def kept_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache/texdiff/records").glob("*"))


def test_a_second_start_maps_what_the_first_has_parsed(dataset, tmp_path, monkeypatch):
    first = list(read_records(str(dataset), "train"))
    (file,) = kept_files(tmp_path)
    assert len(read_records(str(dataset), "validation")) == 1  # of one batch, so not kept
    assert kept_files(tmp_path) == [file]
    monkeypatch.setattr("texdiff.data.records.folder.read_rows", lambda path: pytest.fail("parsed again"))
    monkeypatch.setattr("texdiff.data.records.has_other_keys", lambda path: False)
    again = read_records(str(dataset), "train")
    assert list(again) == first
    data = again.table.column("image").chunk(0).buffers()[2]
    assert not data.is_mutable  # the file's own


def test_a_list_that_changed_is_read_again_and_a_damaged_file_made_again(dataset, tmp_path):
    first = list(read_records(str(dataset), "train"))
    (file,) = kept_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-200])
    assert list(read_records(str(dataset), "train")) == first
    metadata = dataset / "train/metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    status = metadata.stat()
    metadata.write_text("".join(json.dumps(row | {"text": "another"}) + "\n" for row in rows))
    os.utime(metadata, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert {record.captions for record in read_records(str(dataset), "train")} == {("another",)}


def test_files_are_looked_at_by_every_start(dataset, tmp_path):
    records = read_records(str(dataset), "train")
    lost = Path(records[3].mask.path)
    lost.rename(tmp_path / "elsewhere.png")
    line = f"{dataset}/train/metadata.jsonl, line 4"
    with pytest.raises(InputError) as caught:
        read_records(str(dataset), "train")
    assert str(caught.value) == f"{lost}: does not exist, but {line} names it; prepare the dataset again"
    assert len(read_records(str(dataset), "train", missing_ok=True)) == 4
    lost.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(InputError, match=f"{line}: mask_file_name .* is a link out of the dataset's folder"):
        read_records(str(dataset), "train", missing_ok=True)


def test_what_was_seen_of_files_is_what_looking_again_gives_and_is_taken_once(dataset):
    """Also of links inside the dataset, of several sources, and in another order."""
    first = Path(read_records(str(dataset), "train")[0].mask.path)
    first.rename(first.with_name("real.png"))
    first.symlink_to(first.with_name("real.png"))
    one, other = (SourceConfig(path=str(dataset), caption_prefix=prefix) for prefix in ("", "a"))
    read = partial(read_sources, split="train", columns=("image", "mask", "text", None), needs_surface=False)
    records = pick(read([one, other], missing_ok=False), [5, 0, 3])
    for kind in ("image", "mask"):
        column = Column(records, kind)
        seen = column.take_looks()
        assert seen is not None
        assert seen.tolist() == as_keys(key_of(source.signature()) for source in column).tolist()
        assert column.take_looks() is None
    first.with_name("real.png").unlink()
    assert Column(read([one], missing_ok=True), "mask").take_looks() is None


def test_where_the_cache_cannot_be_written_records_are_in_memory(dataset, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    assert len(read_records(str(dataset), "train")) == 4


def test_a_start_that_is_stopped_leaves_nothing(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(kept.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read_records(str(dataset), "train")
    assert kept_files(tmp_path) == []
