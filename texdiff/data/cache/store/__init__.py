"""Entries of named arrays, in immutable Arrow files that are memory-mapped.

A folder holds shards, NAME.arrow, each a few entries: a column of keys, and for every array three columns, its bytes,
its shape and their sum. A shard is written aside, synced and renamed, so it is complete or absent, and never
changes; processes that write at the same time write shards of their own. Reading copies nothing, and what was
read stays readable when the file is deleted. Of many shards an index repeats what a start reads (index.py), so
that it does not open them. Whatever else lies in the folder is left alone. A shard's date is when it
was last used, and its metadata say what it was made for (`texdiff cache`, in upkeep.py, goes by both).
The folder may be in object storage (away.py).
"""

import hashlib
import os
import sys
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from texdiff.data.cache.keys import FORMAT, KEY, Keys, key_of
from texdiff.data.cache.store.away import AwayFiles
from texdiff.data.cache.store.index import INDEX, Index, SortedKeys, make_index, read_index
from texdiff.data.cache.store.shards import (
    Arrays,
    Shard,
    damage_in,
    make_shard,
    open_shard,
    remove_abandoned,
    write_shard,
)
from texdiff.errors import InputError, one_line
from texdiff.files import hold
from texdiff.storage import default_cache_dir, is_address, join

SHARD_ENTRIES = 256  # entries of a shard at most: 100,000 textures are some 400 files
INDEX_SHARDS = 64  # shards that are not in the index yet, from which on it is written anew
SHARD_SECONDS = 30.0  # and what took longer than this to make is not left waiting for more


def cache_place(cache_dir: str | None, default: str) -> Path | str:
    """What data.cache_dir names: a folder, an address in storage, or the folder `default` of the user's cache."""
    return cache_dir if cache_dir and is_address(cache_dir) else Path(cache_dir or default_cache_dir() / default)


class Stores:
    """The stores of one run, one for each kind of entry and the settings that it depends on: below `root`, a folder or
    an address, or with None in memory. `made_for` is written into their shards."""

    def __init__(self, root: Path | str | None, made_for: Mapping[str, str]) -> None:
        self.root, self.made_for = root, made_for
        self.opened: dict[str, ArrayStore] = {}

    def open(self, kind: str, *what: object) -> "ArrayStore":
        """That of a kind, for the settings `what`; the same one every time."""
        name = f"{kind}-{key_of(FORMAT, *what).hex()[:16]}"
        if name not in self.opened:
            place = join(self.root, name) if isinstance(self.root, str) else self.root and self.root / name
            self.opened[name] = ArrayStore(place, self.made_for)
        return self.opened[name]


class ArrayStore:
    """Entries by key, in a folder or at an address `place`, or with None in this process's memory.

    An entry's place is a number that stays valid while the store lives. `made_for` is written into the shards. While
    the store lives, nobody prunes its folder.
    """

    def __init__(self, place: Path | str | None, made_for: Mapping[str, str] | None = None) -> None:
        self.place, self.made_for = place, dict(made_for or {})
        self._away = None
        if isinstance(place, str):
            self._away = AwayFiles(place.rstrip("/"))
            place = self._away.unsent
        self._folder = place
        self._held: int | None = None
        self._read: set[str] = set()
        self._shards: list[Shard] = []
        self._starts = np.zeros(1, np.int64)  # [shards + 1] place of each shard's first entry
        self._index: Index | None = None  # of the first shards, where all that it names are there
        self._index_is_old = False
        self._others = SortedKeys(np.empty(0, KEY))  # of the entries of the other shards
        self._waiting: dict[bytes, Arrays] = {}
        self._since = time.monotonic()

    def load(self) -> bool:
        """Take in the shards that are there by now, and return whether there are new ones. One that is damaged goes, in
        one line on stderr."""
        self._hold()
        index, found = self._look() if self._away is None else self._away.load(self._read)
        self._read |= found.keys()
        if index and not self._shards and all(name in found and found[name].is_indexed for name in index.names):
            self._index = index
            self._shards = [found.pop(name) for name in index.names]
        self._index_is_old |= index is not None and self._index is None
        self._shards += found.values()
        return len(self._starts) < len(self._shards) + 1

    def _look(self) -> tuple[Index | None, dict[str, Shard]]:
        """What is in a folder, as `AwayFiles.load`."""
        found: dict[str, Shard] = {}
        if self._folder is None or not self._folder.is_dir():
            return None, found
        index = None if self._read else read_index(self._folder / INDEX)
        known = {one.name: one for one in index or ()}
        for name in sorted(os.listdir(self._folder)):
            path = self._folder / name
            if path.suffix == ".tmp":
                remove_abandoned(path)
            if path.suffix != ".arrow" or name in self._read or name == INDEX:
                continue
            try:
                one = known.get(name)
                is_known = one is not None and one.size == path.stat().st_size
                found[name] = Shard(path, known=one) if is_known else Shard(path, open_shard(path))
            except FileNotFoundError:  # another process has just found it damaged
                continue
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                print(f"{path}: is damaged ({one_line(error)[:120]}); what it held is made again", file=sys.stderr)
                path.unlink(missing_ok=True)
        return index, found

    def write_index(self) -> None:
        """Have the next start read one file instead of many, where many are not in the index, or it is not as it should
        be; in storage where any are not. For one of the ranks that see the folder. Raises InputError where a shard is
        damaged, or storage cannot be written."""
        lacking, least = sum(not shard.is_indexed for shard in self._shards), 1 if self._away else INDEX_SHARDS
        if self._folder is None or (lacking < least and not (self._index_is_old and self._shards)):
            return
        with suppress(OSError):  # it would only save time
            index = make_index([shard.indexed() for shard in self._shards], self.made_for)
            if self._away is None:
                write_shard(self._folder / INDEX, index)
            else:
                self._away.write_index(index)
            self._index_is_old = False
            for shard in self._shards:
                shard.is_indexed = True

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The place of each of these keys [n], -1 where there is no such entry."""
        self._sort()
        found = np.full(len(keys), -1, np.int64) if self._index is None else self._index.keys.find(keys)
        if len(self._others.keys) and (lacking := np.flatnonzero(found < 0)).size:
            places = self._others.find(keys[lacking])
            found[lacking] = np.where(places < 0, -1, places + self._indexed)
        return found

    def mark_used(self, places: NDArray[np.int64]) -> None:
        """Set the date of the shards that hold these entries [n] to now."""
        if self._folder is not None:
            with suppress(OSError):
                os.utime(self._folder / INDEX)
        used = np.zeros(self._starts[-1], bool)
        used[places[places >= 0]] = True
        shards = np.logical_or.reduceat(used, self._starts[:-1]) if len(used) else used
        for number in np.flatnonzero(shards).tolist():
            if path := self._shards[number].path:
                with suppress(OSError):  # another user's, or deleted
                    os.utime(path)

    def get(self, place: int) -> dict[str, NDArray[Any]]:
        """The arrays of an entry: views of the file, not to be written into. Raises InputError where it is damaged."""
        number = int(np.searchsorted(self._starts, place, "right")) - 1
        row, shard = place - int(self._starts[number]), self._shards[number]
        with damage_in(shard):
            return {name: column.row(row) for name, column in shard.columns.items()}

    def column(self, name: str, places: NDArray[np.int64]) -> NDArray[Any]:
        """An array that has the same shape in every entry, of these entries at once: [n, ...], a copy.

        Raises InputError where one is damaged.
        """
        self._sort()
        index = self._index if self._index and name in self._index.small else None
        known = self._indexed if index else 0
        inside = places < known
        if index and inside.all():
            return index.small[name][places]
        parts = []
        for shard in self._shards[len(index.names) if index else 0 :]:
            with damage_in(shard):
                parts.append(shard.small[name] if name in shard.small else shard.columns[name].all_rows())
        others = np.concatenate(parts)
        found = np.empty((len(places), *others.shape[1:]), others.dtype)
        if index:
            found[inside] = index.small[name][places[inside]]
        found[~inside] = others[places[~inside] - known]
        return found

    def add(self, key: bytes, entry: Arrays) -> None:
        """Keep an entry; it can be found from the next `flush` on, which comes by itself now and then."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting[key] = entry
        if len(self._waiting) >= SHARD_ENTRIES or time.monotonic() - self._since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, as one shard. Raises InputError where that cannot be done."""
        if not self._waiting:
            return
        batch = make_shard(self._waiting, self.made_for)
        path = None
        if self._folder is not None:
            path = self._folder / (
                hashlib.blake2b(b"".join(sorted(self._waiting)), digest_size=16).hexdigest() + ".arrow"
            )
            try:
                write_shard(path, batch)
            except OSError as error:
                raise InputError(
                    f"{self._folder}: can't be written ({error.strerror or error}); name another folder with "
                    "data.cache_dir, or keep the cache in memory with data.cache memory"
                ) from None
            self._hold()
            self._read.add(path.name)
        self._waiting = {}  # before it is sent, as a connection that breaks loses nothing that is on the disk here
        if path is not None and self._away is not None:
            self._shards.append(self._away.shard(path.name, self._away.send(path), batch))
        else:
            self._shards.append(Shard(path, batch if path is None else open_shard(path)))

    def _hold(self) -> None:
        if self._held is None and self._folder is not None and (held := hold(self._folder)) is not None:
            self._held = held
            weakref.finalize(self, os.close, held)

    @property
    def _indexed(self) -> int:
        """Entries that the index knows."""
        return 0 if self._index is None else len(self._index.keys.keys)

    def _sort(self) -> None:
        """Take in the keys of new shards. Not at each of them: a store that is filled would do nothing else."""
        if len(self._starts) == len(self._shards) + 1:
            return
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in self._shards)])
        others = [shard.keys for shard in self._shards[len(self._index.names) if self._index else 0 :]]
        self._others = SortedKeys(np.concatenate([np.empty(0, KEY), *others]))
