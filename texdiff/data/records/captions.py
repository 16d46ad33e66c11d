"""Captions of many records, without an object for each."""

from collections.abc import Iterator, Sequence
from typing import overload

import pyarrow as pa

from texdiff.data.columns import RecordTable
from texdiff.data.record import Record

_AT_ONCE = 8192  # that are made into objects


class Texts(Sequence[str]):
    """Texts as Arrow has them, each made when it is asked for."""

    def __init__(self, cells: pa.Array) -> None:
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self.cells[index].to_pylist() if isinstance(index, slice) else self.cells[index].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]


def distinct_captions(records: Sequence[Record]) -> Texts:
    """The captions of records, each once, by their first; before them none at all, ''."""
    kind = pa.large_string()
    if isinstance(records, RecordTable):
        chunks = [batch.column("captions").flatten() for batch in records.table.to_batches()]
    else:
        chunks = [pa.array([text for record in records for text in record.captions], kind)]
    return Texts(pa.chunked_array([pa.array([""], kind), *chunks], kind).unique())
