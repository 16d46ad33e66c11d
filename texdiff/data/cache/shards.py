"""Shards: immutable Arrow files of a few entries each, and an index of them. Reading copies nothing.

A million textures are thousands of shards in each of several stores. Their index is one file with what a start reads of
all of them, their keys and arrays of a few bytes an entry; so none is opened before an entry of it is read. It only
repeats what shards hold: without it, or where it is damaged, they are read themselves.
"""

import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from texdiff.data.cache.keys import KEY, Keys
from texdiff.errors import InputError, one_line

INDEX = "index.arrow"
SMALL = 64  # bytes of an array in each entry, at most, that the index holds

Arrays = Mapping[str, NDArray[Any]]


class IndexedShard(NamedTuple):
    """What the index says of a shard."""

    name: str
    size: int  # bytes of the file
    keys: Keys  # [n]
    small: Mapping[str, NDArray[Any]]  # [n, ...] each


def make_index(shards: Sequence[IndexedShard], made_for: Mapping[str, str]) -> pa.RecordBatch:
    """The index of these shards. An array that some of them have in another form is left out."""
    keys = np.concatenate([shard.keys for shard in shards])
    columns, fields = [_fixed(keys)], [pa.field("key", pa.binary(KEY.itemsize))]
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


def read_index(path: Path) -> list[IndexedShard]:
    """The shards that the index at `path` knows; none where there is no such file. One that is damaged goes, in one
    line on stderr."""
    try:
        with pa.memory_map(str(path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        said = batch.schema.metadata or {}
        if _sum(batch.columns) != int(said[b"crc32"]):
            raise ValueError("not what was written")
        small = {
            field.name: _array(batch.column(field.name), field.metadata) for field in batch.schema if field.metadata
        }
        keys = np.frombuffer(batch.column("key").buffers()[1], KEY, len(batch))
        found, start = [], 0
        for name, size, count in json.loads(said[b"shards"]):
            part = slice(start, start + count)
            found.append(IndexedShard(name, size, keys[part], {key: array[part] for key, array in small.items()}))
            start += count
        return found
    except FileNotFoundError:
        return []
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        print(f"{path}: is damaged ({one_line(error)[:120]}); it is made again", file=sys.stderr)
        path.unlink(missing_ok=True)
        return []


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


class Column:
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

    def is_small(self) -> bool:
        """Whether every row has the same shape, and no more bytes than the index takes."""
        sizes, ranks = np.diff(self.starts), np.diff(self.shape_starts)
        if sizes[0] > SMALL or (sizes != sizes[0]).any() or (ranks != ranks[0]).any():
            return False
        shapes = self.shapes[: self.shape_starts[-1]].reshape(len(ranks), -1)
        return bool((shapes == shapes[0]).all())

    def all_rows(self) -> NDArray[Any]:
        """[rows, ...] of rows that have the same shape. Raises ValueError as `row` does."""
        shape = self.shapes[: self.shape_starts[1]]
        begin, data = zlib.crc32(shape.tobytes()), self.data.data
        ends = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        if any(zlib.crc32(data[a:b], begin) != found for (a, b), found in zip(ends, self.sums.tolist(), strict=True)):
            raise ValueError("not what was written")
        return self.data[: self.starts[-1]].view(self.dtype).reshape(len(self.sums), *shape)


class Shard:
    """A shard that is open, or one that the index knows, which is opened once an entry of it is read."""

    def __init__(
        self, path: Path | None, shard: pa.RecordBatch | None = None, known: IndexedShard | None = None
    ) -> None:
        self.path, self.is_indexed = path, known is not None
        self.keys = _keys(shard) if known is None else known.keys
        self.small = {} if known is None else known.small
        """Arrays that the index has of it."""
        self._columns = None if shard is None else _columns(shard)

    @property
    def columns(self) -> dict[str, Column]:
        """Its arrays by name. Raises ValueError, ArrowException or OSError where the file is not what the index says of
        it."""
        if self._columns is None:
            assert self.path is not None, "the index knows files"
            shard = open_shard(self.path)
            if not np.array_equal(_keys(shard), self.keys):
                raise ValueError("not what the index says")
            self._columns = _columns(shard)
        return self._columns

    def indexed(self) -> IndexedShard:
        """What the index is to say of it. Raises OSError where its file has gone."""
        assert self.path is not None, "in memory there is no index"
        small = self.small
        if not self.is_indexed:
            with damage_in(self):
                small = {name: column.all_rows() for name, column in self.columns.items() if column.is_small()}
        return IndexedShard(self.path.name, self.path.stat().st_size, self.keys, small)


def _keys(shard: pa.RecordBatch) -> Keys:
    return np.frombuffer(shard.column("key").buffers()[1], KEY, len(shard))


def _columns(shard: pa.RecordBatch) -> dict[str, Column]:
    dtypes = {field.name: (field.metadata or {}).get(b"dtype") for field in shard.schema}
    return {name: Column(shard, name, dtype.decode()) for name, dtype in dtypes.items() if dtype}


@contextmanager
def damage_in(shard: Shard) -> Iterator[None]:
    """A shard whose bytes have changed since they were written goes, so that the next start makes it again."""
    try:
        yield
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        if shard.path is not None:
            shard.path.unlink(missing_ok=True)
        raise InputError(
            f"{shard.path}: is damaged ({one_line(error)[:120]}) and has been deleted; start again to rebuild it"
        ) from None


def make_shard(entries: Mapping[bytes, Arrays], made_for: dict[str, str]) -> pa.RecordBatch:
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


def write_shard(path: Path, shard: pa.RecordBatch) -> None:
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


def open_shard(path: Path) -> pa.RecordBatch:
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
