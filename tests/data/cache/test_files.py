"""Files that have not changed are not read again; any change of theirs is seen."""

import os

import numpy as np
import pytest

from texdiff.data.cache.encoders import _share
from texdiff.data.cache.files import digests
from texdiff.data.cache.store import SHARD_ENTRIES, ArrayStore
from texdiff.data.image_source import StoredFile, TableCell
from texdiff.data.records import read_records


def test_files_are_read_again_when_anything_about_them_changed(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    read = []

    class Counted(StoredFile):
        def __call__(self):
            read.append(self.path)
            return super().__call__()

    def digest():
        store = ArrayStore(tmp_path / "store")
        return digests([Counted(str(path))] * 2, store, slice(None), lambda: None, progress=False).tolist()

    first = digest()
    assert first[0] == first[1]
    seen = len(read)
    assert digest() == first
    assert len(read) == seen
    status = path.stat()
    os.utime(path, (1, 1))
    assert digest() == first
    assert len(read) > seen
    path.write_bytes(b"two")  # as long, and its date put back: only the inode's own time tells
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digest() != first


def test_ranks_share_out_files_alike_also_where_one_is_ahead(tmp_path):
    paths = [tmp_path / f"{number}.bin" for number in range(9)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    sources = [StoredFile(str(path)) for path in paths]
    found = []

    def other_rank():  # comes when the first has done and written its share
        store = ArrayStore(tmp_path / "store")
        found.append(digests(sources, store, slice(1, None, 2), lambda: None, progress=False))

    found.append(digests(sources, ArrayStore(tmp_path / "store"), slice(0, None, 2), other_rank, progress=False))
    assert found[0].tolist() == found[1].tolist()
    assert len(set(found[0].tolist())) == 9


@pytest.mark.parametrize(("count", "ranks"), [(9, 2), (100, 3), (10_000, 4)])
def test_ranks_share_out_all_in_runs_as_long_as_a_shard(count, ranks):
    shares = [_share(np.arange(count), slice(rank, None, ranks)) for rank in range(ranks)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(count))
    longest = min(SHARD_ENTRIES, max(1, count // (8 * ranks)))
    assert max(map(len, shares)) - min(map(len, shares)) <= longest
    for share in shares:
        assert {int(index) // longest % ranks for index in share} == {int(share[0]) // longest}


def test_cells_of_a_table_are_read_again_when_the_table_changed(dataset, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    picture = datasets.Image()
    columns = datasets.Features(image=picture, mask=picture, text=datasets.Value("string"))
    hub = tmp_path / "hub"
    hub.mkdir()

    def write(order):
        rows = {
            name: [{"bytes": (dataset / f"train/{kind}/{i}.png").read_bytes(), "path": None} for i in order]
            for name, kind in (("image", "textures"), ("mask", "masks"))
        }
        table = datasets.Dataset.from_dict(rows | {"text": ["a"] * len(order)}, features=columns)
        table.to_parquet(hub / "train-00000-of-00001.parquet")

    def digest():
        records = read_records(str(hub), "train")
        sources = [source for record in records for source in (record.image, record.mask)]
        assert all(isinstance(source, TableCell) for source in sources)
        return digests(sources, ArrayStore(tmp_path / "store"), slice(None), lambda: None, progress=False).tolist()

    write([0, 1, 2])
    first = digest()
    with monkeypatch.context() as patched:
        patched.setattr(TableCell, "__call__", lambda cell: pytest.fail("read again"))
        assert digest() == first
    write([1, 0, 2])
    assert digest() == first[2:4] + first[:2] + first[4:]
