"""A dataset in object storage, for `texdiff check`: its tables are read, its images fetched one by one."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from texdiff import storage
from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.sources.tables import find_metadata, read_metadata
from texdiff.errors import InputError

_TABLES = ("metadata.jsonl", "metadata.csv")
_FILES = ("path", "mask", "surface", "layout")


def stored_assets(address: str, folder: Path) -> list[Asset]:
    """The rows of the dataset's tables, which are put into `folder`, as assets whose files are at their `address`.

    Raises InputError where there is no table, or storage cannot be read.
    """
    there = storage.find(address)
    names = [name for name in there if name.split("/")[-1] in _TABLES and name.count("/") <= 1]
    if not there:
        raise InputError(f"{address}: is not there; check the name of the bucket and of the folder in it")
    if not names:
        raise InputError(f"{address}: has no {_TABLES[0]}; of other datasets, such as Parquet, check a copy on a disk")
    storage.download_files(address, names, folder)
    found = [asset for table in find_metadata(folder) for asset in read_metadata(table, folder, folder / "unpacked")]
    return [replace(_moved(asset, folder, Path()), address=address) for asset in found]


@contextmanager
def fetched(asset: Asset) -> Iterator[Asset]:
    """The asset with its files on the disk, as long as the block lasts. Raises InputError for what is not there."""
    with tempfile.TemporaryDirectory() as folder:
        names = {path.as_posix() for path in _files(asset) if not path.is_absolute()}
        try:
            storage.download_files(asset.address, sorted(names), Path(folder))
            yield replace(_moved(asset, Path(), Path(folder)), address="")
        except storage.ConnectionBroken:
            raise
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", storage.join(asset.address, ""))) from None


def _files(asset: Asset) -> list[Path]:
    return [path for name in _FILES if (path := getattr(asset, name)) is not None]


def _moved(asset: Asset, before: Path, now: Path) -> Asset:
    """The asset with its files in the folder `now` that are in `before`."""
    paths = {name: getattr(asset, name) for name in _FILES if getattr(asset, name) is not None}
    inside = {name: path for name, path in paths.items() if path.is_absolute() == before.is_absolute()}
    moved = {name: now / path.relative_to(before) for name, path in inside.items() if path.is_relative_to(before)}
    return replace(asset, **moved)
