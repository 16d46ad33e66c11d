"""Records in Parquet shards in object storage. Columns of text and numbers are read at the start, without the images;
an image from a local copy of its shard, made when the first one of it is asked for."""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from texdiff import storage
from texdiff.data.columns import IN_TABLE, RecordTable, Row
from texdiff.data.image_source import Source
from texdiff.data.records.folder import Columns
from texdiff.data.records.tables import TOLD, caption_column_of, table_row
from texdiff.errors import InputError, one_line
from texdiff.storage.copies import local_copies

_GROUPS = 8  # of rows, of one column each, that stay in memory


@dataclass(frozen=True)
class Shard:
    """A file of a table."""

    address: str
    stamp: str


@dataclass(frozen=True, slots=True)
class ShardCell:
    """An image in a shard."""

    shard: Shard
    row: int
    column: str

    def __call__(self) -> bytes:
        return _image(self.shard, self.row, self.column)

    def signature(self) -> str:
        return f"{self.shard.address} {self.shard.stamp} {self.column} {self.row}"


class StoredTable:
    """Shards, of which `starts` are the numbers of their first rows; its columns are called otherwise than a record's
    as `called` says."""

    def __init__(self, title: str, shards: Sequence[Shard], counts: Sequence[int], called: dict[str, str]) -> None:
        self.title, self.shards, self.called = title, shards, called
        self.starts = [0, *accumulate(counts)]

    def name(self, row: int, image: str) -> str:
        return f"{self.title}[{row}]"

    def source(self, column: str, row: int, cell: str) -> Source:
        number = bisect_right(self.starts, row) - 1
        return ShardCell(self.shards[number], row - self.starts[number], self.called[column])


def find_shards(address: str, split: str) -> list[Shard]:
    """The shards of a split, data/SPLIT-*.parquet, in order. Raises InputError where some are missing."""
    folder = storage.join(address, "data")
    found = {name: of for name, of in storage.find(folder).items() if re.match(rf"{split}[-.].*parquet$", name)}
    said = {int(match[1]) for name in found if (match := re.search(r"-of-(\d+)\.parquet$", name))}
    if said and said != {len(found)}:
        raise InputError(
            f"{folder}: has {len(found)} shards of {split}, but their names say {max(said)}; write it anew"
        )
    return [Shard(storage.join(folder, name), of.stamp) for name, of in found.items()]


def shard_records(address: str, split: str, shards: Sequence[Shard], columns: Columns) -> RecordTable:
    """The records of a split. Raises InputError in one line where a column is missing, or an image."""
    image_column, mask_column, _, layout_column = columns
    names = _names(shards[0])
    caption_column = caption_column_of(address, names, columns)
    called = {"image": image_column, "mask": mask_column, "surface": "surface", "layout": layout_column or ""}
    called = {kind: column for kind, column in called.items() if column in names}
    wanted = [caption_column, *(name for name in TOLD if name in names)]
    tables = [_columns(shard, [*wanted, *(f"{column}.path" for column in called.values())]) for shard in shards]
    place = StoredTable(f"{address} {split}", shards, [len(table) for table in tables], called)
    return RecordTable.of(place, _rows(place, tables, caption_column))


def shard_cells(shards: Sequence[Shard], column: str) -> Iterator[object]:
    """A column of all rows, where there is one."""
    for shard in shards:
        yield from _columns(shard, [column])[column].to_pylist() if column in _names(shard) else ()


def _rows(place: StoredTable, tables: Sequence[Any], caption_column: str) -> Iterator[Row]:
    row = 0
    for table in tables:
        for cells in table.to_pylist():
            there = {kind: IN_TABLE if cells[column] is not None else None for kind, column in place.called.items()}
            said = {key: cell for key, cell in cells.items() if cell is not None or key == caption_column}
            yield table_row(row, place.name(row, ""), there, said, caption_column)
            row += 1


def _names(shard: Shard) -> list[str]:
    return _scanned(shard, lambda file: file.schema_arrow.names)


def _columns(shard: Shard, columns: list[str]) -> Any:
    """These columns of all rows, read from storage without the others."""
    return _scanned(shard, lambda file: file.read(columns))


def _scanned(shard: Shard, do: Callable[[Any], Any]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return storage.scan(shard.address, lambda file: do(pq.ParquetFile(file)))
    except pa.ArrowInvalid as error:
        raise InputError(f"{shard.address}: is no Parquet file ({one_line(error)[:200]}); write it anew") from None


def _image(shard: Shard, row: int, column: str) -> bytes:
    path = str(local_copies().path(shard.address, shard.stamp))
    for group, count in enumerate(_group_rows(path)):
        if row < count:
            content = _group(path, group, column)[row].as_py()
            if content is None:
                raise InputError(f"{shard.address}: row {row} has no {column} in it; put the image itself there")
            return content
        row -= count
    raise InputError(f"{shard.address}: has changed while it was read; start again")


@lru_cache(maxsize=64)
def _group_rows(path: str) -> list[int]:
    import pyarrow.parquet as pq

    about = pq.read_metadata(path)
    return [about.row_group(number).num_rows for number in range(about.num_row_groups)]


@lru_cache(maxsize=_GROUPS)
def _group(path: str, group: int, column: str) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        table = file.read_row_group(group, [f"{column}.bytes"])
    return table.column(0).combine_chunks().field("bytes")
