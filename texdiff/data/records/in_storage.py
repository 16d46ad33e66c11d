"""Records of a dataset in object storage: what `texdiff prepare` writes, as a folder of images or as Parquet shards.

What describes the textures is read at the start, images only when they are asked for, through local copies of which the
disk has room for so many.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from texdiff import storage
from texdiff.data.columns import RecordTable
from texdiff.data.image_source import Source, StoredObject
from texdiff.data.records.folder import Columns, metadata_rows
from texdiff.data.records.kept import kept_records
from texdiff.data.records.shards import find_shards, shard_cells, shard_records
from texdiff.data.rows import read_rows
from texdiff.errors import InputError
from texdiff.storage.copies import local_copies

_METADATA = "metadata.jsonl"


@dataclass(frozen=True)
class StoredFolder:
    """A folder in storage, and what a listing of it says."""

    address: str
    listing: Mapping[str, storage.Stored]

    def name(self, row: int, image: str) -> str:
        return storage.join(self.address, image)

    def source(self, column: str, row: int, cell: str) -> Source:
        found = self.listing.get(cell)
        return StoredObject(storage.join(self.address, cell), found.stamp if found else None)


def stored_records(address: str, split: str, columns: Columns, missing_ok: bool) -> RecordTable | None:
    """The records of a split, None of an absent one, but for `train`. Raises InputError in one line, also for a file
    that a row names and the listing does not, but for `missing_ok`."""
    place = StoredFolder(storage.join(address, split), storage.find(storage.join(address, split)))
    metadata = _metadata(place)
    if metadata is None:
        if shards := find_shards(address, split):
            return shard_records(address, split, shards, columns)
        if split == "train":
            if not storage.find(address):
                raise InputError(
                    f"data.dataset: {address} is not there; check the name of the bucket and of the folder in it"
                )
            raise InputError(
                f"data.dataset: {address} has neither train/{_METADATA} nor data/train-*.parquet; in storage texdiff "
                "reads what texdiff prepare writes: make it with that, or copy this to a disk"
            )
        return None
    where = storage.join(place.address, _METADATA)
    rows = partial(metadata_rows, metadata, where, columns)
    records = kept_records(f"{where} {place.listing[_METADATA].stamp}", address, place, rows, columns)
    if not records:
        raise InputError(f"{where}: has no texture; prepare the dataset again")
    for kind in ("image", "mask", "layout") if not missing_ok else ():
        for line, name in records.cells("row", kind):
            if name is not None and name not in place.listing:
                raise InputError(
                    f"{storage.join(place.address, name)}: does not exist, but {where}, line {line} names it; prepare "
                    "the dataset again"
                )
    return records


def license_cells(address: str) -> Iterator[object]:
    """What the training split says of each texture's licence."""
    place = StoredFolder(storage.join(address, "train"), storage.find(storage.join(address, "train")))
    if metadata := _metadata(place):
        yield from (row.get("license") for _, row in read_rows(metadata) if isinstance(row, dict))
    else:
        yield from shard_cells(find_shards(address, "train"), "license")


def _metadata(place: StoredFolder) -> Path | None:
    """A local copy of the list of the textures."""
    listed = place.listing.get(_METADATA)
    return local_copies().path(storage.join(place.address, _METADATA), listed.stamp) if listed else None
