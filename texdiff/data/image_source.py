"""Where the bytes of a picture come from, and how to know without reading them that they are what they were."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from texdiff.data.cache.store import KEY, EntryStore, Keys, as_keys, key_of
from texdiff.errors import InputError

_THREADS = min(8, os.cpu_count() or 1)  # reading and hashing let go of Python's lock
_BLOCK = 1024


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
        # A change that keeps size and date still shows in the time of the inode's own change, or in its number.
        times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
        return f"{os.path.abspath(self.path)} {status.st_size} {times} {status.st_dev} {status.st_ino}"


@dataclass(frozen=True, slots=True)
class TableCell:
    """A cell of a `datasets` table that holds the bytes of a picture. `fingerprint` is the table's."""

    rows: Any
    index: int
    column: str
    fingerprint: str

    def __call__(self) -> bytes:
        return self.rows[self.index][self.column]["bytes"]

    def signature(self) -> str:
        return f"{self.fingerprint} {self.column} {self.index}"


def digests(
    sources: Sequence[Source], store: EntryStore, mine: slice, wait: Callable[[], None], progress: bool
) -> Keys:
    """A hash of each source's bytes, [n]. `store` remembers them by signature, so what has not changed is not read.

    `mine` picks this rank's share of the reading, and `wait` lets every rank come to the same point.
    """
    signatures = as_keys([key_of(source.signature()) for source in sources])
    store.load()
    share = np.arange(len(sources))[mine]  # of all of them, since another rank may be done with some of its own already
    unread = share[store.find(signatures[share]) < 0]

    def digest(index: int) -> bytes:
        return hashlib.blake2b(sources[index](), digest_size=KEY.itemsize).digest()

    with (
        ThreadPoolExecutor(_THREADS) as pool,
        tqdm(
            desc="looking for changes", total=len(unread), unit=" files", disable=not progress or len(unread) < _BLOCK
        ) as bar,
    ):
        for start in range(0, len(unread), _BLOCK):
            block = unread[start : start + _BLOCK]
            for index, found in zip(block, pool.map(digest, block), strict=True):
                store.add(signatures[index].ljust(KEY.itemsize, b"\0"), {"digest": np.frombuffer(found, np.uint8)})
            bar.update(len(block))
    store.flush()
    wait()
    store.load()
    places = store.find(signatures)
    if (places < 0).any():  # a rank's file system does not show yet what another has written
        missing = sources[int(np.argmin(places))].signature()
        raise InputError(f"{store.folder}: lacks what another rank wrote about {missing}; start again")
    return np.ascontiguousarray(store.column("digest", places)).view(KEY).reshape(-1)
