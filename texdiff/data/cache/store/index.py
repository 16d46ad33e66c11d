"""An index of a store's shards, and how entries are found by their keys.

A million textures are thousands of shards in each of several stores. Their index is one file with what a start reads of
all of them: their keys, in which order these are, and arrays of a few bytes an entry. So no shard is opened before an
entry of it is read, nothing is sorted, and as the file is mapped, nothing of it is in this process's own memory. It
only repeats what shards hold: without it, or where it is damaged, they are read themselves.
"""

import json
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from texdiff.data.cache.keys import KEY, Keys
from texdiff.errors import one_line

INDEX = "index.arrow"
SMALL = 64  # bytes of an array in each entry, at most, that the index holds
_AT_ONCE = 1 << 16  # keys that are looked up at a time: what that takes in between does not grow with their number


class IndexedShard(NamedTuple):
    """What the index says of a shard."""

    name: str
    size: int  # bytes of the file
    keys: Keys  # [n]
    small: Mapping[str, NDArray[Any]]  # [n, ...] each


class SortedKeys:
    """Keys [n], and what sorts them; of equal ones the first is found. The first 8 bytes of each are compared as
    numbers, in a third of the time."""

    def __init__(
        self, keys: Keys, order: NDArray[np.int64] | None = None, halves: NDArray[np.uint64] | None = None
    ) -> None:
        self.keys = keys
        self.order = order_of(keys) if order is None else order
        self.halves = halves_of(keys)[self.order] if halves is None else halves
        self._repeats: bool | None = None

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The number of each of these keys [m], -1 where it is none of them."""
        found = np.full(len(keys), -1, np.int64)
        if len(self.keys):
            for start in range(0, len(keys), _AT_ONCE):
                part = slice(start, start + _AT_ONCE)
                found[part] = self._find(keys[part])
        return found

    def _find(self, keys: Keys) -> NDArray[np.int64]:
        last = len(self.keys) - 1
        at = self.order[np.searchsorted(self.halves, halves_of(keys)).clip(max=last)]
        found = self.keys[at] == keys
        if not found.all() and self._halves_repeat:
            at = self.order[np.searchsorted(self.keys, keys, sorter=self.order).clip(max=last)]
            found = self.keys[at] == keys
        return np.where(found, at, -1)

    @property
    def _halves_repeat(self) -> bool:
        if self._repeats is None:
            parts = (self.halves[start : start + _AT_ONCE + 1] for start in range(0, len(self.halves), _AT_ONCE))
            self._repeats = any(bool((part[1:] == part[:-1]).any()) for part in parts)
        return self._repeats


class Index:
    """What is known of all entries of some shards without opening them; mapped from its file."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        """Raises ValueError, KeyError or TypeError for one that is damaged."""
        said = batch.schema.metadata or {}
        if _sum(batch.columns) != int(said[b"crc32"]):
            raise ValueError("not what was written")
        names, self._sizes, self._counts = zip(*json.loads(said[b"shards"]), strict=True)
        self.names: tuple[str, ...] = names
        self.small = {
            field.name: _array(batch.column(field.name), field.metadata) for field in batch.schema if field.metadata
        }
        keys = np.frombuffer(batch.column("key").buffers()[1], KEY, len(batch))
        if sum(self._counts) != len(keys):
            raise ValueError("not what was written")
        self.keys = SortedKeys(keys, *(batch.column(name).to_numpy() for name in ("order", "halves")))

    def __iter__(self) -> Iterator[IndexedShard]:
        """The shards, in the order of the entries."""
        start = 0
        for name, size, count in zip(self.names, self._sizes, self._counts, strict=True):
            part = slice(start, start + count)
            yield IndexedShard(name, size, self.keys.keys[part], {key: rows[part] for key, rows in self.small.items()})
            start += count


def make_index(shards: Sequence[IndexedShard], made_for: Mapping[str, str]) -> pa.RecordBatch:
    """The index of these shards. An array that some of them have in another form is left out."""
    keys = np.concatenate([shard.keys for shard in shards])
    found = SortedKeys(keys)
    columns = [_fixed(keys), pa.array(found.order), pa.array(found.halves)]
    fields = [pa.field("key", pa.binary(KEY.itemsize)), pa.field("order", pa.int64()), pa.field("halves", pa.uint64())]
    for name, first in shards[0].small.items():
        form = first.dtype, first.shape[1:]
        parts = [shard.small[name] for shard in shards if name in shard.small]
        if len(parts) < len(shards) or any((part.dtype, part.shape[1:]) != form for part in parts):
            continue
        about = {"dtype": first.dtype.str, "shape": json.dumps(first.shape[1:])}
        columns.append(_fixed(np.concatenate(parts).reshape(len(keys), -1)))
        fields.append(pa.field(name, columns[-1].type, metadata=about))
    table = json.dumps([(shard.name, shard.size, len(shard.keys)) for shard in shards])
    said = {**made_for, "shards": table, "crc32": str(_sum(columns))}
    return pa.record_batch(columns, schema=pa.schema(fields, said))


def read_index(path: Path) -> Index | None:
    """The index at `path`; None where there is none, or one of an earlier version, which is not in order. One that is
    damaged goes, in one line on stderr."""
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        return Index(batch) if "order" in batch.schema.names else None
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        print(f"{path}: is damaged ({one_line(error)[:120]}); it is made again", file=sys.stderr)
        path.unlink(missing_ok=True)
        return None


def halves_of(keys: Keys) -> NDArray[np.uint64]:
    """The first halves of keys [n], as numbers of the same order."""
    first = np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY.itemsize)[:, :8]
    return np.ascontiguousarray(first).view(">u8")[:, 0].astype(np.uint64)


def order_of(keys: Keys) -> NDArray[np.int64]:
    """What sorts `keys` [n], of equal ones the first before the others. By their first halves, as numbers, which takes
    a tenth of the time, where these differ."""
    halves = halves_of(keys)
    order = np.argsort(halves, kind="stable")
    ordered = halves[order]
    return np.argsort(keys, kind="stable") if (ordered[1:] == ordered[:-1]).any() else order


def _fixed(rows: NDArray[Any]) -> pa.Array:
    """Rows [n, ...] as binary cells of one size."""
    width = rows[:1].nbytes
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(rows.tobytes())])


def _array(cells: pa.Array, about: Mapping[bytes, bytes]) -> NDArray[Any]:
    dtype, shape = np.dtype(about[b"dtype"].decode()), json.loads(about[b"shape"])
    return np.frombuffer(cells.buffers()[1], dtype, len(cells) * cells.type.byte_width // dtype.itemsize).reshape(
        len(cells), *shape
    )


def _sum(columns: Sequence[pa.Array]) -> int:
    found = 0
    for column in columns:
        size = len(column) * column.type.byte_width
        found = zlib.crc32(memoryview(column.buffers()[1])[:size], found)
    return found
