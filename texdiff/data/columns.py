"""Records as columns: of a million textures some 0.15 GB, where objects take 1.7."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from texdiff.data.image_source import Source, StoredFile, TableCell
from texdiff.data.record import Record
from texdiff.errors import InputError, readable

Keys = NDArray[np.bytes_]  # [n] of 16 bytes
_ROWS = 8192  # of a batch: what is made into objects at a time
IN_TABLE = ""  # for an image that is no file of its own, but bytes in its table
T = TypeVar("T")


class Place(Protocol):
    """Where records are of."""

    def name(self, row: int, image: str) -> str: ...
    def source(self, column: str, row: int, cell: str) -> Source: ...


@dataclass(frozen=True)
class Folder:
    """A folder of files, whose names are relative to it."""

    path: str
    """With a separator at its end."""

    def name(self, row: int, image: str) -> str:
        return self.path + image

    def source(self, column: str, row: int, cell: str) -> Source:
        return StoredFile(self.path + cell)


@dataclass(frozen=True)
class TableOfImages:
    """A table of `datasets`, each column as its own view of it, for its columns `called` otherwise; `title` before a
    row's number is a record's name."""

    title: str
    rows: dict[str, Any]  # by what the column is to a record
    called: dict[str, str]

    def name(self, row: int, image: str) -> str:
        return f"{self.title}[{row}]"

    def source(self, column: str, row: int, cell: str) -> Source:
        if cell != IN_TABLE:
            return StoredFile(cell)
        rows = self.rows[column]
        return TableCell(rows, row, self.called[column], rows._fingerprint)


class Row(NamedTuple):
    """What a table keeps of a record. Of images the file's name, IN_TABLE, or None where there is none."""

    row: int
    """Its number at its place."""
    image: str
    mask: str
    captions: Sequence[str]
    surface: str | None = None
    layout: str | None = None
    coverage: float | None = None
    repeats: int = 1
    regularisation: bool = False


_IMAGES = ("image", "mask", "surface", "layout")
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("image", pa.large_string()),
        ("mask", pa.large_string()),
        ("captions", pa.large_list(pa.large_string())),
        ("surface", pa.large_string()),
        ("layout", pa.large_string()),
        ("coverage", pa.float64()),
        ("repeats", pa.int64()),
        ("regularisation", pa.bool_()),
        ("place", pa.int32()),
        ("source", pa.int32()),
    ]
)


class RecordTable(Sequence[Record]):
    """Records, each made when it is asked for; `column` gives one attribute of all of them for less.

    `looks`: of a kind of files, the keys of what was seen of each when the records were read [n], so that a start does
    not look at a million files twice. They can be taken once: later they may be of the past.
    """

    def __init__(self, places: Sequence[Place], table: pa.Table, looks: dict[str, Keys] | None = None) -> None:
        self.places, self.table, self.looks = places, table, looks or {}
        self._batches = [batch for batch in table.to_batches(max_chunksize=_ROWS) if len(batch)]
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + len(batch))

    @classmethod
    def of(cls, place: Place, rows: Iterable[Row]) -> "RecordTable":
        """The records of a place, as its rows come."""
        return cls([place], pa.Table.from_batches(batches_of(place, rows), SCHEMA))

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(index)
        number = bisect_right(self._starts, at) - 1
        row = at - self._starts[number]
        return self._record(*(column[row].as_py() for column in self._batches[number].columns))

    def __iter__(self) -> Iterator[Record]:
        for batch in self._batches:
            yield from map(self._record, *(column.to_pylist() for column in batch.columns))

    def cells(self, *names: str) -> Iterator[tuple[Any, ...]]:
        """What these columns hold of each record, in their order."""
        for batch in self._batches:
            yield from zip(*(batch.column(name).to_pylist() for name in names), strict=True)

    def column(self, name: str) -> Iterator[Any]:
        """An attribute of each record, in their order."""
        if name == "name":
            yield from (self.places[place].name(row, cell) for place, row, cell in self.cells("place", "row", "image"))
        elif name in _IMAGES:
            yield from (self._image(name, *found) for found in self.cells("place", "row", name))
        elif name == "captions":  # Arrow's own way to lists takes several times as long
            for batch in self._batches:
                cells = batch.column(name)
                texts, ends = (
                    cells.flatten().to_pylist(),
                    (cells.offsets.to_numpy() - cells.offsets[0].as_py()).tolist(),
                )
                yield from (tuple(texts[begin:end]) for begin, end in pairwise(ends))
        else:
            yield from (value for (value,) in self.cells(name))

    def pick(self, indices: Sequence[int] | NDArray[np.int64]) -> "RecordTable":
        """These records, in this order."""
        looks = {kind: seen[indices] for kind, seen in self.looks.items()}
        return RecordTable(self.places, self.table.take(pa.array(indices, pa.int64())).combine_chunks(), looks)

    def without_layouts(self) -> "RecordTable":
        """The same without their maps."""
        return RecordTable(self.places, self._set("layout", pa.nulls(len(self), pa.large_string())))

    def with_captions(self, captions: Iterable[Sequence[str]]) -> "RecordTable":
        """The same with other captions."""
        kind = SCHEMA.field("captions").type
        return RecordTable(
            self.places, self._set("captions", pa.chunked_array(list(_some(captions)), kind)), self.looks
        )

    def of_source(self, number: int) -> "RecordTable":
        """The same as those of entry `number` of data.dataset."""
        cells = pa.repeat(pa.scalar(number, pa.int32()), len(self))
        return RecordTable(self.places, self._set("source", cells), self.looks)

    def _set(self, name: str, cells: pa.Array | pa.ChunkedArray) -> pa.Table:
        return self.table.set_column(SCHEMA.get_field_index(name), name, cells)

    def _image(self, column: str, place: int, row: int, cell: str | None) -> Source | None:
        return None if cell is None else self.places[place].source(column, row, cell)

    def _record(
        self,
        row: int,
        image: str,
        mask: str,
        captions: list[str],
        surface: str | None,
        layout: str | None,
        coverage: float | None,
        repeats: int,
        regularisation: bool,
        place: int,
        source: int,
    ) -> Record:
        where = self.places[place]
        return Record(
            name=where.name(row, image),
            image=where.source("image", row, image),
            mask=where.source("mask", row, mask),
            captions=tuple(captions),
            surface=self._image("surface", place, row, surface),
            layout=self._image("layout", place, row, layout),
            coverage=coverage,
            repeats=repeats,
            regularisation=regularisation,
            source=source,
        )


class Column(Sequence[T], Generic[T]):
    """An attribute of records, each read when it is asked for."""

    def __init__(self, records: Sequence[Record], name: str) -> None:
        self.records, self.name = records, name

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [getattr(record, self.name) for record in self.records[index]]
        return getattr(self.records[index], self.name)

    def take_looks(self) -> Keys | None:
        """Of files, the keys of what was seen of them when the records were read [n], once; None where nothing was."""
        return self.records.looks.pop(self.name, None) if isinstance(self.records, RecordTable) else None

    def __iter__(self) -> Iterator[T]:
        if isinstance(self.records, RecordTable):
            return self.records.column(self.name)
        return (getattr(record, self.name) for record in self.records)


def numbers_of(records: Sequence[Record], name: str) -> NDArray[Any]:
    """An attribute of records that is a number, or true or false, [n]; NaN where it is None."""
    if isinstance(records, RecordTable):
        return records.table.column(name).to_numpy()
    return np.array([np.nan if (value := getattr(record, name)) is None else value for record in records])


def lacking(records: Sequence[Record], name: str) -> NDArray[np.int64]:
    """The records in which an attribute is None, by their numbers."""
    if isinstance(records, RecordTable):
        return np.flatnonzero(records.table.column(name).is_null().to_numpy())
    return np.array([number for number, record in enumerate(records) if getattr(record, name) is None], np.int64)


def pick(records: Sequence[Record], indices: Sequence[int] | NDArray[np.int64]) -> Sequence[Record]:
    """These records, in this order."""
    return records.pick(indices) if isinstance(records, RecordTable) else [records[index] for index in indices]


def join(parts: Sequence[Sequence[Record]]) -> Sequence[Record]:
    """The records of all parts, the i-th of which is entry i of data.dataset."""
    found = [(number, part) for number, part in enumerate(parts) if len(part)]
    tables = [part.of_source(number) for number, part in found if isinstance(part, RecordTable)]
    if len(tables) < len(found) or not found:
        return [replace(record, source=number) for number, part in found for record in part]
    places: list[Place] = []
    moved = []
    for one in tables:
        numbers = pc.add(one.table.column("place"), pa.scalar(len(places), pa.int32()))
        moved.append(one._set("place", numbers) if places else one.table)
        places += one.places
    kinds = set(tables[0].looks).intersection(*(one.looks for one in tables))
    looks = {kind: np.concatenate([one.looks[kind] for one in tables]) for kind in kinds}
    return RecordTable(places, pa.concat_tables(moved), looks)


def batches_of(place: Place, rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    """The rows of a place as a table's batches. Raises InputError for text that is not Unicode."""
    return (_batch(place, some) for some in _some(rows))


def _batch(place: Place, rows: Sequence[Row]) -> pa.RecordBatch:
    cells = zip(*((*row, 0, 0) for row in rows), strict=True)
    try:
        return pa.record_batch([pa.array(of, field.type) for field, of in zip(SCHEMA, cells, strict=True)], SCHEMA)
    except UnicodeEncodeError as error:
        wrong = next(row for row in rows if error.object in (*row[1:3], *row.captions, row.surface, row.layout))
        name = readable(place.name(wrong.row, wrong.image))
        raise InputError(f"{name}: its caption or a file's name is not valid Unicode; write it anew") from None


def _some(items: Iterable[T]) -> Iterator[list[T]]:
    left = iter(items)
    return iter(lambda: list(islice(left, _ROWS)), [])
