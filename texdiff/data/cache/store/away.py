"""A store's files in object storage.

Shards never change, so one is fetched at most once, by its name and size, to the bounded copies of this machine, and
only when an entry of it is read: what a start needs is in the index. What is encoded is written here first and then
sent, so what a broken connection leaves unsent is sent by the next start.
"""

import hashlib
import sys
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from texdiff import storage
from texdiff.data.cache.store.index import INDEX, Index, IndexedShard, read_index
from texdiff.data.cache.store.shards import (
    Column,
    Shard,
    columns_of,
    keys_of,
    open_shard,
    remove_abandoned,
    write_shard,
)
from texdiff.errors import InputError, one_line
from texdiff.storage.copies import local_copies

OPEN = 64  # shards of a store that are open at once: their disk space is theirs also after the copies made room
_AT_ONCE = 8  # shards on their way


class AwayShard(Shard):
    """A shard in storage. In memory is only what the index says, or is to say, of it."""

    def __init__(self, known: IndexedShard, files: "AwayFiles", is_indexed: bool) -> None:
        super().__init__(None, known=known)
        self.known, self.is_indexed, self._files = known, is_indexed, files

    @property
    def where(self) -> str:
        return self._files.address_of(self.known.name)

    @property
    def columns(self) -> dict[str, Column]:
        return self._files.open(self)

    def indexed(self) -> IndexedShard:
        return self.known

    def drop(self) -> None:
        self._files.drop(self.known.name, self.known.size)


class AwayFiles:
    """Those of one store, at `address`. Every function raises InputError where storage cannot be used, or the disk here
    is full."""

    def __init__(self, address: str) -> None:
        self.address = address
        root, _, name = address.rpartition("/")
        digest = hashlib.sha256(root.encode()).hexdigest()[:32]
        self.unsent = storage.default_cache_dir() / "unsent" / digest / name
        """Where shards are until they are sent."""
        self.open = lru_cache(OPEN)(self._open)

    def address_of(self, name: str) -> str:
        """That of one of the files."""
        return storage.join(self.address, name)

    def load(self, but: Collection[str]) -> tuple[Index | None, dict[str, Shard]]:
        """The index, unless some shards are known already, and all shards `but` these. One that is damaged goes, in one
        line on stderr."""
        there = storage.find(self.address)
        for path in self.unsent.glob(".*.tmp"):
            remove_abandoned(path)
        for path in sorted(self.unsent.glob("*.arrow")):
            with suppress(FileNotFoundError):  # another process has sent it just now
                there[path.name] = storage.Stored(self.send(path, there.get(path.name)), "")
        stored = there.pop(INDEX, None)
        index = None
        if stored is not None and not but:
            with suppress(storage.Missing):
                index = read_index(self._copy(INDEX, stored.stamp))
        known = {one.name: one for one in index or ()}
        found: dict[str, Shard] = {}
        others: list[tuple[str, int]] = []
        for name in there.keys() - {*but}:
            size = there[name].size
            if "/" in name or not name.endswith(".arrow"):
                continue
            if name in known and known[name].size == size:
                found[name] = AwayShard(known[name], self, is_indexed=True)
            else:
                others.append((name, size))
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            taken = threads.map(lambda other: self._take(*other), sorted(others))
            found |= {shard.known.name: shard for shard in taken if shard is not None}
        return index, {name: found[name] for name in sorted(found)}

    def send(self, path: Path, before: storage.Stored | None = None) -> int:
        """Send a shard that is in `unsent`, unless what was there `before` is as large, and return its size in bytes.
        Here it is a copy like others then."""
        size = path.stat().st_size
        try:
            if before is None or before.size != size:
                storage.upload(path, self.address_of(path.name))
        except (FileNotFoundError, storage.Missing):
            if path.exists():
                raise
            return size  # another process has sent it just now
        local_copies().adopt(path, self.address_of(path.name), str(size))
        return size

    def shard(self, name: str, size: int, batch: pa.RecordBatch) -> AwayShard:
        """A shard of these bytes, of which only what the index is to say is kept. Raises ValueError where they are
        damaged."""
        small = {name: column.all_rows().copy() for name, column in columns_of(batch).items() if column.is_small()}
        return AwayShard(IndexedShard(name, size, keys_of(batch).copy(), small), self, is_indexed=False)

    def write_index(self, index: pa.RecordBatch) -> None:
        """Replace the index."""
        path = self.unsent / "index.new"
        write_shard(path, index)
        storage.upload(path, self.address_of(INDEX))
        path.unlink(missing_ok=True)

    def drop(self, name: str, size: int) -> None:
        """Delete a shard, here and there."""
        local_copies().place(self.address_of(name), str(size)).unlink(missing_ok=True)
        storage.remove(self.address_of(name))

    def _open(self, shard: AwayShard) -> dict[str, Column]:
        """Raises as `Shard.columns` does."""
        batch = self._fetch(shard.known.name, shard.known.size)
        if not np.array_equal(keys_of(batch), shard.keys):
            raise ValueError("not what the index says")
        return columns_of(batch)

    def _take(self, name: str, size: int) -> AwayShard | None:
        """A shard that the index does not know; None where it is damaged or has gone."""
        try:
            return self.shard(name, size, self._fetch(name, size))
        except storage.Missing:  # another process has just found it damaged
            return None
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            said = f"is damaged ({one_line(error)[:120]}); what it held is made again"
            print(f"{self.address_of(name)}: {said}", file=sys.stderr)
            self.drop(name, size)
            return None

    def _fetch(self, name: str, size: int) -> pa.RecordBatch:
        while True:
            try:
                return open_shard(self._copy(name, str(size)))
            except FileNotFoundError:  # another process has made room just now
                continue
            except storage.Missing:
                raise storage.Missing(f"{self.address_of(name)}: has gone; start again to rebuild it") from None

    def _copy(self, name: str, stamp: str) -> Path:
        copies = local_copies()
        try:
            return copies.path(self.address_of(name), stamp)
        except OSError as error:
            raise InputError(
                f"{copies.folder}: can't be written ({error.strerror or error}); make room for what is fetched from "
                f"{self.address}, or set XDG_CACHE_HOME to a folder on a larger disk"
            ) from None
