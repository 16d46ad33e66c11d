"""Shards: immutable Arrow files of a few entries each. Reading copies nothing."""

import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from texdiff.data.cache.keys import KEY, Keys
from texdiff.data.cache.store.index import SMALL, IndexedShard
from texdiff.errors import InputError, one_line

_ABANDONED = 24 * 3600.0  # seconds after which a file that is still being written belongs to a process that was killed
Arrays = Mapping[str, NDArray[Any]]


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
        self.keys = keys_of(shard) if known is None else known.keys
        self.small: Mapping[str, NDArray[Any]] = {} if known is None else known.small
        """Arrays that the index has of it."""
        self._columns = None if shard is None else columns_of(shard)

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return str(self.path)

    def drop(self) -> None:
        """Delete its file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    @property
    def columns(self) -> dict[str, Column]:
        """Its arrays by name. Raises ValueError, ArrowException or OSError where the file is not what the index says of
        it."""
        if self._columns is None:
            assert self.path is not None, "the index knows files"
            shard = open_shard(self.path)
            if not np.array_equal(keys_of(shard), self.keys):
                raise ValueError("not what the index says")
            self._columns = columns_of(shard)
        return self._columns

    def indexed(self) -> IndexedShard:
        """What the index is to say of it. Raises OSError where its file has gone."""
        assert self.path is not None, "in memory there is no index"
        if not self.is_indexed:
            with damage_in(self):
                self.small = {name: column.all_rows() for name, column in self.columns.items() if column.is_small()}
        return IndexedShard(self.path.name, self.path.stat().st_size, self.keys, self.small)


def keys_of(shard: pa.RecordBatch) -> Keys:
    """The keys [n] of its entries."""
    return np.frombuffer(shard.column("key").buffers()[1], KEY, len(shard))


def columns_of(shard: pa.RecordBatch) -> dict[str, Column]:
    """Its arrays by name."""
    dtypes = {field.name: (field.metadata or {}).get(b"dtype") for field in shard.schema}
    return {name: Column(shard, name, dtype.decode()) for name, dtype in dtypes.items() if dtype}


@contextmanager
def damage_in(shard: Shard) -> Iterator[None]:
    """A shard whose bytes have changed since they were written goes, so that the next start makes it again."""
    try:
        yield
    except (ValueError, KeyError, OSError, pa.ArrowException) as error:
        shard.drop()
        raise InputError(
            f"{shard.where}: is damaged ({one_line(error)[:120]}) and has been deleted; start again to rebuild it"
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


def remove_abandoned(path: Path) -> None:
    """Delete a file that a process was killed over while it wrote it."""
    try:
        if time.time() - path.stat().st_mtime > _ABANDONED:
            path.unlink()
    except OSError:  # gone already, or not ours to delete
        return
