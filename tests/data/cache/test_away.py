"""A store's files in storage: nothing is fetched before it is read, and nothing that was encoded is lost."""

from pathlib import Path

import numpy as np
import pytest
from flaky_storage import FlakyFileSystem

from texdiff import storage
from texdiff.cli import main
from texdiff.data.cache import store as module
from texdiff.data.cache.encoders import fill_store
from texdiff.data.cache.keys import as_keys, key_of
from texdiff.data.cache.store import ArrayStore, away
from texdiff.data.cache.store.index import INDEX
from texdiff.errors import InputError
from texdiff.storage import ConnectionBroken, copies

PLACE = "flaky://bucket/cache/textures-0123456789abcdef"
KEYS = as_keys(key_of(number) for number in range(40))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FlakyFileSystem.clean()
    storage._Said.failing = False
    monkeypatch.setattr(storage, "WAITS", ())
    monkeypatch.setattr(module, "SHARD_ENTRIES", 10)
    on_machine(tmp_path / "first", monkeypatch)


def on_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    copies.local_copies.cache_clear()
    FlakyFileSystem.calls.clear()


def calls(function: str) -> list[str]:
    return [path.rpartition("/")[2] for name, path in FlakyFileSystem.calls if name == function]


def fill(place: str | Path = PLACE, count: int = 40, **share) -> tuple[ArrayStore, np.ndarray, list[int]]:
    """A store with the entries of the first keys, their places, and which of them had to be made."""
    store, made = ArrayStore(place), []

    def make(missing):
        for number in missing:
            made.append(number)
            yield {"mean": np.full((2, 3, 3), number, np.float32), "sums": np.array([number, 1.0])}

    places = fill_store(store, KEYS[:count], make, what="", progress=False, **share)
    return store, places, made


def check(store: ArrayStore, places: np.ndarray) -> None:
    assert store.column("sums", places)[:, 0].tolist() == [*range(len(places))]
    assert all((store.get(int(place))["mean"] == number).all() for number, place in enumerate(places))


def test_another_machine_fetches_the_index_and_then_only_shards_of_which_it_reads(tmp_path, monkeypatch):
    store, places, made = fill()
    assert made == [*range(40)]
    check(store, places)
    assert calls("get_file") == []
    shards = {name for name in storage.find(PLACE) if name != INDEX}
    assert (len(shards), len(storage.find(PLACE))) == (4, 5)
    assert not [*(tmp_path / "first/texdiff/unsent").rglob("*.*")]

    on_machine(tmp_path / "second", monkeypatch)
    store, places, made = fill()
    assert (made, calls("get_file"), calls("put_file")) == ([], [INDEX], [])
    assert store.column("sums", places)[:, 0].tolist() == [*range(40)]
    for number in range(10, 20):
        assert (store.get(int(places[number]))["mean"] == number).all()
    assert len(calls("get_file")) == 2
    check(store, places)
    assert {*calls("get_file")} == {*shards, INDEX}
    assert len(calls("get_file")) == 5

    on_machine(tmp_path / "second", monkeypatch)  # the next start there
    check(*fill()[:2])
    assert calls("get_file") == []


def test_it_says_the_same_as_a_folder_with_few_shards_open_and_little_room(tmp_path, monkeypatch):
    fill()
    on_machine(tmp_path / "second", monkeypatch)
    monkeypatch.setattr(away, "OPEN", 2)
    monkeypatch.setattr(copies, "GRACE", 0.0)
    one = next(found.size for name, found in storage.find(PLACE).items() if name != INDEX)
    few = copies.LocalCopies(tmp_path / "few", 2 * one)
    monkeypatch.setattr(away, "local_copies", lambda: few)
    (here, near, _), (there, far, _) = fill(tmp_path / "disk"), fill()
    for number in [*range(40), *range(39, -1, -7)]:
        one, other = here.get(int(near[number])), there.get(int(far[number]))
        assert all(np.array_equal(one[name], other[name]) for name in one.keys() | other.keys())
        assert there._away.open.cache_info().currsize <= 2
        assert len([*(tmp_path / "few").rglob("*.arrow")]) <= 2


def test_ranks_on_two_machines_share_the_work(tmp_path, monkeypatch):
    first, _, one = fill(mine=slice(1, None, 2))
    on_machine(tmp_path / "second", monkeypatch)
    other = fill(mine=slice(0, None, 2))[2]
    assert sorted(one + other) == [*range(40)]
    assert one
    assert other
    assert first.load()
    check(first, first.find(KEYS))


@pytest.mark.parametrize("damage", [lambda b: b[:200], lambda b: b"\0" * len(b)])
def test_a_damaged_shard_is_one_line_and_made_again(damage, tmp_path, monkeypatch, capsys):
    fill()
    name = next(name for name in storage.find(PLACE) if name != INDEX)
    storage.write(f"{PLACE}/{name}", damage(storage.read(f"{PLACE}/{name}")))
    on_machine(tmp_path / "second", monkeypatch)
    same_size = len(damage(b"0" * 1000)) == 1000
    if same_size:  # only reading it can tell
        store, places, made = fill()
        assert made == []
        with pytest.raises(InputError, match=rf"^{PLACE}/{name}: is damaged \(.*deleted; start again to rebuild it$"):
            check(store, places)
    store, places, made = fill()
    assert len(made) == 10
    check(store, places)
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"{PLACE}/{name}: is damaged (") for line in said] == ([] if same_size else [True])
    assert fill()[2] == []


def test_an_index_that_is_damaged_or_lacks_shards_costs_nothing(tmp_path, monkeypatch, capsys):
    fill(count=20)
    early = storage.read(f"{PLACE}/{INDEX}")
    fill()
    for content in (early, early[:-300]):
        storage.write(f"{PLACE}/{INDEX}", content)
        on_machine(tmp_path / str(len(content)), monkeypatch)
        store, places, made = fill()
        assert made == []
        check(store, places)
        assert calls("put_file") == [INDEX]
    assert capsys.readouterr().err.count("is damaged") == 1


def test_what_a_broken_connection_left_unsent_is_sent_by_the_next_start(monkeypatch):
    FlakyFileSystem.cut(of=("put_file",))
    with pytest.raises(ConnectionBroken, match=rf"^{PLACE}/.*: the connection is broken"):
        fill()
    assert storage.find(PLACE) == {}
    FlakyFileSystem.cut(0)
    store, places, made = fill()
    assert made == [*range(10, 40)]
    check(store, places)
    assert len(storage.find(PLACE)) == 5


def test_a_broken_connection_while_reading_costs_nothing(tmp_path, monkeypatch):
    fill()
    on_machine(tmp_path / "second", monkeypatch)
    store, places, _ = fill()
    FlakyFileSystem.cut()
    with pytest.raises(ConnectionBroken):
        store.get(int(places[0]))
    with pytest.raises(ConnectionBroken):
        fill()
    FlakyFileSystem.cut(0)
    check(store, places)
    assert fill()[2] == []


def test_a_shard_that_has_gone_is_one_line(tmp_path, monkeypatch):
    fill()
    on_machine(tmp_path / "second", monkeypatch)
    store, places, _ = fill()
    for name in storage.find(PLACE):
        storage.remove(f"{PLACE}/{name}")
    with pytest.raises(InputError, match=rf"^{PLACE}/.*\.arrow: has gone; start again to rebuild it$"):
        store.get(int(places[0]))


def test_upkeep_is_of_folders(capsys):
    assert main(["cache", "--cache_dir", "s3://bucket/cache"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "texdiff: error: --cache_dir must be a folder on a disk (got s3://bucket/cache): see and delete what is in "
        "storage with its own tools; copies here are shown without --cache_dir"
    ]
