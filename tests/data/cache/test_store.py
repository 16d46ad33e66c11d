"""Shards: what happens to them must never cost more than what was in them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from texdiff.data.cache import store as module
from texdiff.data.cache.keys import as_keys, key_of
from texdiff.data.cache.store import ArrayStore, index
from texdiff.data.cache.store.index import INDEX, order_of
from texdiff.data.cache.store.shards import write_shard
from texdiff.errors import InputError


def entry(number, side=3):
    return {"mean": np.full((2, side, side), number, np.float32), "texels": np.asarray(number, np.float32)}


def filled(folder, numbers):
    store = ArrayStore(folder)
    for number in numbers:
        store.add(key_of(number), entry(number))
    store.flush()
    return store


def found(store, numbers):
    return (store.find(as_keys([key_of(n) for n in numbers])) >= 0).tolist()


@pytest.mark.parametrize("in_memory", [True, False])
def test_entries_come_back_as_they_were(tmp_path, in_memory):
    folder = None if in_memory else tmp_path / "store"
    store = ArrayStore(folder)
    for number in range(600):
        store.add(key_of(number), entry(number, side=2 + number % 2))
    store.flush()
    assert in_memory or len(list(folder.iterdir())) == 3
    order = np.random.default_rng(0).permutation(600)
    places = store.find(as_keys([key_of(int(n)) for n in order]))
    for number, place in zip(order, places, strict=True):
        back = store.get(int(place))
        assert all(np.array_equal(back[name], value) for name, value in entry(number, 2 + number % 2).items())
        assert [back[name].shape for name in back] == [value.shape for value in entry(0, 2 + number % 2).values()]
    assert np.array_equal(store.column("texels", places), order)
    assert store.find(as_keys([key_of("none")])).tolist() == [-1]


def test_reading_copies_nothing_and_outlives_the_file(tmp_path):
    store = filled(tmp_path, range(4))
    (shard,) = tmp_path.iterdir()
    one, other = (store.get(2)["mean"] for _ in range(2))
    assert np.shares_memory(one, other)
    assert not one.flags.writeable
    assert one.flags.aligned
    shard.unlink()
    assert (store.get(3)["mean"] == 3).all()


@pytest.mark.parametrize(
    "damage", [lambda b: b[:100], lambda b: b[: len(b) // 2], lambda b: b[:-1], lambda b: b"", lambda b: b"\0" * len(b)]
)
def test_a_damaged_shard_costs_one_line_and_its_entries(tmp_path, capsys, damage):
    filled(tmp_path, range(3))
    (spoilt,) = tmp_path.iterdir()
    spoilt.write_bytes(damage(spoilt.read_bytes()))
    filled(tmp_path, [7, 8])
    store = ArrayStore(tmp_path)
    store.load()
    assert found(store, [0, 1, 2, 7, 8]) == [False, False, False, True, True]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"{spoilt}: is damaged (" in lines[0]
    again = filled(tmp_path, range(3))
    again.load()
    assert found(again, [0, 8]) == [True, True]
    assert capsys.readouterr().err == ""


def test_what_is_not_ours_is_left_alone_and_what_was_abandoned_goes(tmp_path, capsys):
    filled(tmp_path, [1])
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "0.safetensors").write_bytes(b"old")
    for name, age in ((".new.1.tmp", 0), (".old.1.tmp", 48 * 3600)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    store = ArrayStore(tmp_path)
    store.load()
    assert found(store, [1]) == [True]
    names = {path.name for path in tmp_path.iterdir() if path.suffix != ".arrow"}
    assert names == {"notes.txt", "ab", ".new.1.tmp"}
    assert capsys.readouterr().err == ""


def test_two_stores_on_one_folder_see_each_others_entries(tmp_path):
    one, other = filled(tmp_path, range(5)), filled(tmp_path, range(3, 8))
    one.load()
    other.load()
    assert found(one, range(8)) == found(other, range(8)) == [True] * 8
    for store in (one, other):
        places = store.find(as_keys([key_of(n) for n in range(8)]))
        assert [store.get(int(p))["mean"].max() for p in places] == list(range(8))


WRITER = """
import sys, time, numpy as np
from pathlib import Path
from texdiff.data.cache import keys, store
store.SHARD_ENTRIES = 4
kept = store.ArrayStore(Path(sys.argv[1]))
for number in range(10**9):
    kept.add(keys.key_of(number), {"mean": np.full(100_000, number, np.float32)})
    print(number, flush=True)
"""


def test_a_kill_costs_one_shard_at_most(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
    while (last := int(process.stdout.readline())) < 30:
        pass
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    last = int(rest[-1]) if rest else last
    store = ArrayStore(tmp_path)
    store.load()
    there = found(store, range(last + 1))
    assert all(there[: last + 1 - 4])
    for number in range(last + 1 - 4):
        place = store.find(as_keys([key_of(number)]))[0]
        assert (store.get(int(place))["mean"] == number).all()


def test_a_slow_encoder_does_not_leave_its_work_waiting(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_SECONDS", 0.05)
    store = ArrayStore(tmp_path)
    store.add(key_of(0), entry(0))
    time.sleep(0.1)
    store.add(key_of(1), entry(1))
    assert len(list(tmp_path.glob("*.arrow"))) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"can't be written \(.*\); name another folder with data\.cache_dir"):
        filled(tmp_path / "file" / "store", [1])


def open_shards(store):
    return sum(shard._columns is not None for shard in store._shards)


def test_an_index_spares_opening_many_shards_and_says_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ENTRIES", 10)
    monkeypatch.setattr(module, "INDEX_SHARDS", 8)
    filled(tmp_path, range(65)).write_index()
    assert not (tmp_path / INDEX).exists()  # of 7 shards it would save nothing
    first = filled(tmp_path, range(65, 95))
    first.load()
    first.write_index()
    filled(tmp_path, range(95, 98))  # written since
    again, numbers = ArrayStore(tmp_path), np.random.default_rng(0).permutation(98)
    again.load()
    places = again.find(as_keys([key_of(int(n)) for n in numbers]))
    assert np.array_equal(again.column("texels", places), numbers)
    assert open_shards(again) == 1
    assert [again.get(int(place))["mean"][0, 0, 0] for place in places[:20]] == numbers[:20].tolist()
    assert found(again, [98, 99]) == [False, False]


def indexed(folder, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ENTRIES", 10)
    monkeypatch.setattr(module, "INDEX_SHARDS", 1)
    filled(folder, range(40)).write_index()
    return sorted(path for path in folder.iterdir() if path.name != INDEX)


def test_what_the_index_says_of_shards_that_have_gone_or_changed_is_not_believed(tmp_path, monkeypatch):
    gone, cut, other, kept = indexed(tmp_path, monkeypatch)
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    other.write_bytes(kept.read_bytes())  # as long as before
    again = ArrayStore(tmp_path)
    again.load()
    places = again.find(as_keys([key_of(n) for n in range(40)]))
    assert (places >= 0).sum() == 20
    assert not cut.exists()
    refused = []
    for place in places[places >= 0].tolist():
        try:
            again.get(place)
        except InputError as error:
            refused.append(str(error))
    assert len(refused) == 10
    assert refused[0] == (
        f"{other}: is damaged (not what the index says) and has been deleted; start again to rebuild it"
    )
    assert not other.exists()


def test_a_damaged_index_is_one_line_and_costs_nothing(tmp_path, monkeypatch, capsys):
    indexed(tmp_path, monkeypatch)
    data = bytearray((tmp_path / INDEX).read_bytes())
    data[len(data) // 3] ^= 255
    (tmp_path / INDEX).write_bytes(data)
    again = ArrayStore(tmp_path)
    again.load()
    assert found(again, range(40)) == [True] * 40
    assert not (tmp_path / INDEX).exists()
    assert capsys.readouterr().err.count("is damaged") == 1
    again.write_index()
    assert (tmp_path / INDEX).exists()


def columns_of(folder):
    with pa.memory_map(str(folder / INDEX)) as source:
        return pa.ipc.open_file(source).get_batch(0)


def test_an_index_of_an_earlier_version_is_made_anew(tmp_path, monkeypatch):
    indexed(tmp_path, monkeypatch)
    batch = columns_of(tmp_path)
    before = batch.drop_columns(["order", "halves"])
    said = before.schema.metadata | {b"crc32": str(index._sum(before.columns)).encode()}
    write_shard(tmp_path / INDEX, before.replace_schema_metadata(said))
    again = ArrayStore(tmp_path)
    again.load()
    numbers = np.random.default_rng(0).permutation(45)
    places = again.find(as_keys([key_of(int(n)) for n in numbers]))
    assert (places < 0).tolist() == (numbers >= 40).tolist()
    assert np.array_equal(again.column("texels", places[places >= 0]), numbers[numbers < 40])
    again.write_index()
    assert columns_of(tmp_path).schema.names == batch.schema.names
    assert len(columns_of(tmp_path)) == 40


def test_an_index_that_one_process_writes_twice_has_what_a_start_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_ENTRIES", 10)
    monkeypatch.setattr(module, "INDEX_SHARDS", 1)
    store = ArrayStore(tmp_path)
    for numbers in (range(20), range(20, 40)):
        for number in numbers:
            store.add(key_of(number), entry(number))
        store.flush()
        store.write_index()
    assert columns_of(tmp_path).schema.names == ["key", "order", "halves", "texels"]


def test_an_index_with_a_shard_that_has_gone_is_made_anew(tmp_path, monkeypatch):
    indexed(tmp_path, monkeypatch)[0].unlink()
    monkeypatch.setattr(module, "INDEX_SHARDS", 64)
    again = ArrayStore(tmp_path)
    again.load()
    again.write_index()
    assert len(columns_of(tmp_path)) == 30


def test_a_sorted_index_is_mapped_and_what_was_written_since_is_found_beside_it(tmp_path, monkeypatch):
    indexed(tmp_path, monkeypatch)
    filled(tmp_path, range(30, 55))
    again = ArrayStore(tmp_path)
    again.load()
    numbers = np.random.default_rng(0).permutation(60)
    places = again.find(as_keys([key_of(int(n)) for n in numbers]))
    assert again._index is not None
    for part in (again._index.keys.keys, again._index.keys.order, again._index.keys.halves):
        assert not part.flags.owndata
        assert not part.flags.writeable
    assert (places < 0).tolist() == (numbers >= 55).tolist()
    there = places >= 0
    assert np.array_equal(again.column("texels", places[there]), numbers[there])
    assert [int(again.get(int(p))["mean"].max()) for p in places[there]] == numbers[there].tolist()


def test_keys_are_in_order_also_where_their_first_halves_are_the_same():
    rng = np.random.default_rng(0)
    for alike in (False, True):
        keys = as_keys([rng.bytes(16) for _ in range(1000)])
        keys = as_keys([b"12345678" + key[8:].ljust(8, b"\0") for key in keys.tolist()]) if alike else keys
        assert np.array_equal(order_of(keys), np.argsort(keys, kind="stable"))


def test_entries_are_found_also_where_their_keys_first_halves_are_the_same():
    rng = np.random.default_rng(0)
    keys = as_keys(b"12345678" + rng.bytes(7) + b"x" for _ in range(600))
    store = ArrayStore(None)
    for number, key in enumerate(keys.tolist()):
        store.add(key, {"number": np.array([number])})
    store.flush()
    places = store.find(keys[::-1])
    assert [int(store.get(place)["number"][0]) for place in places.tolist()] == list(range(599, -1, -1))
    assert store.find(as_keys([b"12345678" + b"y" * 8, b"8" * 16])).tolist() == [-1, -1]
