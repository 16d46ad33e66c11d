"""Where the bytes of an image come from, and how to know without reading them that they have not changed."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from texdiff.errors import InputError
from texdiff.storage.copies import local_copies


class Source(Protocol):
    """Bytes to be read when asked for."""

    def __call__(self) -> bytes: ...

    def signature(self) -> str:
        """Changes whenever the bytes do; it may change more often."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file."""

    path: str

    def __call__(self) -> bytes:
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: can't be read ({error.strerror}); restore it or prepare again") from None

    def signature(self) -> str:
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: can't be read ({error.strerror}); restore it or prepare again") from None
        return file_state(self.path, status)


def file_state(path: str, status: os.stat_result) -> str:
    """What changes whenever a file does, by what `os.stat` says of it."""
    # A change that keeps size and date still shows in the time of the inode's own change, or in its number.
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{_absolute(path)} {status.st_size} {times} {status.st_dev} {status.st_ino}"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A file in object storage. `stamp` changes when it does; None where there was none when it was listed."""

    address: str
    stamp: str | None

    def __call__(self) -> bytes:
        return local_copies().read(self.address, self._stamp())

    def signature(self) -> str:
        return f"{self.address} {self._stamp()}"

    def _stamp(self) -> str:
        if self.stamp is None:
            raise InputError(f"{self.address}: is not there; restore it or prepare again")
        return self.stamp


def _absolute(path: str) -> str:
    """`os.path.abspath`, which takes longer than all else of a signature, asked once for each folder."""
    folder, _, name = path.rpartition(os.sep)
    if not folder or name in ("", os.curdir, os.pardir):
        return os.path.abspath(path)
    return os.path.join(_absolute_folder(folder), name)


@lru_cache(maxsize=4096)
def _absolute_folder(path: str) -> str:
    return os.path.abspath(path)


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell of a `datasets` table that holds the bytes of an image. `fingerprint` is the table's."""

    rows: Any
    index: int
    column: str
    fingerprint: str

    def __call__(self) -> bytes:
        return self.rows[self.index][self.column]["bytes"]

    def signature(self) -> str:
        return f"{self.fingerprint} {self.column} {self.index}"
