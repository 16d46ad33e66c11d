"""The records of large datasets, kept in the user's cache folder: mapped, so that they take no memory of a process, and
not parsed again as long as the file that lists them is as it was."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa

from texdiff.data.cache.keys import key_of
from texdiff.data.columns import SCHEMA, Place, RecordTable, Row, batches_of
from texdiff.storage import default_cache_dir

_FORMAT = 1  # of what is kept; a change of the table changes it


def kept_records(
    state: str, dataset: str, place: Place, rows: Callable[[], Iterator[Row]], *settings: object
) -> RecordTable:
    """The records of `place`, which `rows` gives by these settings of a file in this state. Those of a small dataset,
    of one batch, are in memory, as are all where the cache cannot be written."""
    key = key_of("records", _FORMAT, state, *settings).hex()
    file = default_cache_dir() / "records" / f"{key}.arrow"
    if (table := _mapped(file)) is not None:
        return RecordTable([place], table)
    batches = batches_of(place, rows())
    first = list(islice(batches, 2))
    if len(first) < 2:
        return RecordTable([place], pa.Table.from_batches(first, SCHEMA))
    with suppress(OSError):
        _write(file, chain(first, batches), {"dataset": dataset})
        if (table := _mapped(file)) is not None:
            return RecordTable([place], table)
    return RecordTable([place], pa.Table.from_batches(batches_of(place, rows()), SCHEMA))


def _mapped(file: Path) -> pa.Table | None:
    """The table that is kept in `file`; None where there is none, or it is damaged."""
    try:
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)  # so that no offset leads out of the file
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError):
        with suppress(OSError):
            file.unlink()
        return None
    if not table.schema.equals(SCHEMA):
        return None
    with suppress(OSError):
        os.utime(file)  # when it was last used, which `texdiff cache` goes by
    return table


def _write(file: Path, batches: Iterator[pa.RecordBatch], made_for: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(".tmp", ".", file.parent)
    try:
        with os.fdopen(descriptor, "wb") as to, pa.ipc.new_file(to, SCHEMA.with_metadata(made_for)) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(aside, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(aside)
        raise
