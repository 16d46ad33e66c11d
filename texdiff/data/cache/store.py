"""Entries of named arrays, in immutable Arrow files that are memory-mapped.

A folder holds shards, NAME.arrow, each a few entries: a column of keys, and for every array three columns, its bytes,
its shape and their sum. A shard is written aside, synced and renamed, so it is complete or absent, and never
changes; processes that write at the same time write shards of their own. Reading copies nothing, and what was
read stays readable when the file is deleted. Whatever else lies in the folder is left alone. A shard's date is when it
was last used, and its metadata say what it was made for (`texdiff cache`, in upkeep.py, goes by both).
"""

import hashlib
import os
import sys
import time
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from texdiff.data.cache.keys import FORMAT, KEY, Keys, key_of
from texdiff.errors import InputError, one_line
from texdiff.files import hold

SHARD_ENTRIES = 256  # entries of a shard at most: 100,000 textures are some 400 files
SHARD_SECONDS = 30.0  # and what took longer than this to make is not left waiting for more
_ABANDONED = 24 * 3600.0  # seconds after which a file that is still being written belongs to a process that was killed

Arrays = Mapping[str, NDArray[Any]]


class Stores:
    """The stores of one run, one for each kind of entry and the settings that it depends on: below `root`, or with None
    in memory. `made_for` is written into their shards."""

    def __init__(self, root: Path | None, made_for: Mapping[str, str]) -> None:
        self.root, self.made_for = root, made_for
        self.opened: dict[str, ArrayStore] = {}

    def open(self, kind: str, *what: object) -> "ArrayStore":
        """That of a kind, for the settings `what`; the same one every time."""
        name = f"{kind}-{key_of(FORMAT, *what).hex()[:16]}"
        if name not in self.opened:
            self.opened[name] = ArrayStore(self.root / name if self.root else None, self.made_for)
        return self.opened[name]


class ArrayStore:
    """Entries by key, in a folder, or with `folder` None in this process's memory.

    An entry's place is a number that stays valid while the store lives. `made_for` is written into the shards. While
    the store lives, nobody prunes its folder.
    """

    def __init__(self, folder: Path | None, made_for: Mapping[str, str] | None = None) -> None:
        self.folder, self.made_for = folder, dict(made_for or {})
        self._held: int | None = None
        self._read: set[str] = set()
        self._shards: list[_Shard] = []
        self._starts = np.zeros(1, np.int64)  # [shards + 1] place of each shard's first entry
        self._keys, self._places = np.empty(0, KEY), np.empty(0, np.int64)  # sorted by key
        self._waiting: dict[bytes, Arrays] = {}
        self._since = time.monotonic()

    def load(self) -> None:
        """Take in the shards that are there by now. One that is damaged goes, in one line on stderr."""
        if self.folder is None or not self.folder.is_dir():
            return
        self._hold()
        found = []
        for path in sorted(self.folder.iterdir()):
            if path.suffix == ".tmp":
                _remove_abandoned(path)
            if path.suffix != ".arrow" or path.name in self._read:
                continue
            try:
                found.append(_Shard(_open(path), path))
                self._read.add(path.name)
            except FileNotFoundError:  # another process has just found it damaged
                continue
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                print(f"{path}: is damaged ({one_line(error)[:120]}); what it held is made again", file=sys.stderr)
                path.unlink(missing_ok=True)
        self._take_in(found)

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The place of each of these keys [n], -1 where there is no such entry."""
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        at = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._places[at], -1)

    def mark_used(self, places: NDArray[np.int64]) -> None:
        """Set the date of the shards that hold these entries [n] to now."""
        for number in np.unique(np.searchsorted(self._starts, places[places >= 0], "right") - 1).tolist():
            if path := self._shards[number].path:
                with suppress(OSError):  # another user's, or deleted
                    os.utime(path)

    def get(self, place: int) -> dict[str, NDArray[Any]]:
        """The arrays of an entry: views of the file, not to be written into. Raises InputError where it is damaged."""
        number = int(np.searchsorted(self._starts, place, "right")) - 1
        row, shard = place - int(self._starts[number]), self._shards[number]
        with _damage_in(shard):
            return {name: column.row(row) for name, column in shard.columns.items()}

    def column(self, name: str, places: NDArray[np.int64]) -> NDArray[Any]:
        """An array that has the same shape in every entry, of these entries at once: [n, ...], a copy.

        Raises InputError where one is damaged.
        """
        parts = []
        for shard in self._shards:
            with _damage_in(shard):
                parts.append(shard.columns[name].all_rows())
        return np.concatenate(parts)[places]

    def add(self, key: bytes, entry: Arrays) -> None:
        """Keep an entry; it can be found from the next `flush` on, which comes by itself now and then."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting[key] = entry
        if len(self._waiting) >= SHARD_ENTRIES or time.monotonic() - self._since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, as one shard. Raises InputError where the folder can't be written."""
        if not self._waiting:
            return
        shard = _shard(self._waiting, self.made_for)
        if self.folder is not None:
            name = hashlib.blake2b(b"".join(sorted(self._waiting)), digest_size=16).hexdigest() + ".arrow"
            try:
                _write(self.folder / name, shard)
            except OSError as error:
                raise InputError(
                    f"{self.folder}: can't be written ({error.strerror or error}); name another folder with "
                    "data.cache_dir, or keep the cache in memory with data.cache memory"
                ) from None
            self._hold()
            shard = _open(self.folder / name)
            self._read.add(name)
        self._waiting = {}
        self._take_in([_Shard(shard, self.folder / name if self.folder is not None else None)])

    def _hold(self) -> None:
        if self._held is None and self.folder is not None and (held := hold(self.folder)) is not None:
            self._held = held
            weakref.finalize(self, os.close, held)

    def _take_in(self, shards: list["_Shard"]) -> None:
        if not shards:
            return
        self._shards += shards
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in self._shards)])
        keys = np.concatenate([shard.keys for shard in self._shards])
        self._places = np.argsort(keys, kind="stable")
        self._keys = keys[self._places]


class _Column:
    """An array of every entry of a shard, where Arrow has it. (Arrow's own way to a single cell copies it.)"""

    def __init__(self, shard: pa.RecordBatch, name: str, dtype: str) -> None:
        cells, shapes = shard.column(name), shard.column(f"{name}.shape")
        self.dtype = np.dtype(dtype)
        self.sums = shard.column(f"{name}.crc32").to_numpy()
        self.checked = np.zeros(len(shard), bool)
        self.starts = np.frombuffer(cells.buffers()[1], np.int64, len(shard) + 1)
        self.data = np.frombuffer(cells.buffers()[2] or b"", np.uint8)
        self.shape_starts = np.frombuffer(shapes.buffers()[1], np.int32, len(shard) + 1)
        self.shapes = shapes.values.to_numpy()

    def row(self, row: int) -> NDArray[Any]:
        """Raises ValueError where its bytes are not what was written, which is checked once."""
        shape = self.shapes[self.shape_starts[row] : self.shape_starts[row + 1]]
        data = self.data[self.starts[row] : self.starts[row + 1]]
        if not self.checked[row]:
            if zlib.crc32(data.data, zlib.crc32(shape.tobytes())) != self.sums[row]:
                raise ValueError("not what was written")
            self.checked[row] = True
        return data.view(self.dtype).reshape(shape)

    def all_rows(self) -> NDArray[Any]:
        """[rows, ...] of rows that have the same shape. Raises ValueError as `row` does."""
        shape = self.shapes[: self.shape_starts[1]]
        begin, data = zlib.crc32(shape.tobytes()), self.data.data
        ends = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        if any(zlib.crc32(data[a:b], begin) != found for (a, b), found in zip(ends, self.sums.tolist(), strict=True)):
            raise ValueError("not what was written")
        return self.data[: self.starts[-1]].view(self.dtype).reshape(len(self.sums), *shape)


class _Shard:
    """A shard that is open: its keys, and its arrays by name."""

    def __init__(self, shard: pa.RecordBatch, path: Path | None = None) -> None:
        self.path = path
        self.keys = np.frombuffer(shard.column("key").buffers()[1], KEY, len(shard))
        dtypes = {field.name: (field.metadata or {}).get(b"dtype") for field in shard.schema}
        self.columns = {name: _Column(shard, name, dtype.decode()) for name, dtype in dtypes.items() if dtype}


@contextmanager
def _damage_in(shard: _Shard) -> Iterator[None]:
    """A shard whose bytes have changed since they were written goes, so that the next start makes it again."""
    try:
        yield
    except (ValueError, KeyError) as error:
        if shard.path is not None:
            shard.path.unlink(missing_ok=True)
        raise InputError(
            f"{shard.path}: is damaged ({error}) and has been deleted; start again to rebuild it"
        ) from None


def _shard(entries: Mapping[bytes, Arrays], made_for: dict[str, str]) -> pa.RecordBatch:
    fields, columns = [pa.field("key", pa.binary(KEY.itemsize))], [pa.array(entries, pa.binary(KEY.itemsize))]
    first = next(iter(entries.values()))
    for name in first:
        arrays = [np.asarray(entry[name]) for entry in entries.values()]
        fields.append(pa.field(name, pa.large_binary(), metadata={"dtype": arrays[0].dtype.str}))
        columns.append(pa.array([array.tobytes() for array in arrays], pa.large_binary()))
        fields.append(pa.field(f"{name}.shape", pa.list_(pa.int32())))
        shapes = [np.array(array.shape, np.int32) for array in arrays]
        columns.append(pa.array(shapes, pa.list_(pa.int32())))
        sums = [zlib.crc32(a.tobytes(), zlib.crc32(s.tobytes())) for a, s in zip(arrays, shapes, strict=True)]
        fields.append(pa.field(f"{name}.crc32", pa.uint32()))
        columns.append(pa.array(sums, pa.uint32()))
    return pa.record_batch(columns, schema=pa.schema(fields, made_for))


def _write(path: Path, shard: pa.RecordBatch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            with pa.ipc.new_file(file, shard.schema) as writer:
                writer.write_batch(shard)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _open(path: Path) -> pa.RecordBatch:
    """A shard, its bytes left where they are; its offsets are checked, so no damage leads outside of the file."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        if reader.num_record_batches != 1:
            raise ValueError("not one record batch")
        shard = reader.get_batch(0)
    shard.validate(full=True)
    if shard.schema.field("key").type != pa.binary(KEY.itemsize) or not len(shard):
        raise ValueError("no keys")
    return shard


def _remove_abandoned(path: Path) -> None:
    try:
        if time.time() - path.stat().st_mtime > _ABANDONED:
            path.unlink()
    except OSError:  # gone already, or not ours to delete
        return
