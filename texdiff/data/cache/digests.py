"""Hashes of files, remembered by the files' state, so that what has not changed is not read."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from texdiff.data.cache.keys import KEY, Keys, as_keys, key_of
from texdiff.data.cache.store import ArrayStore
from texdiff.data.image_source import Source
from texdiff.errors import InputError

_THREADS = min(8, os.cpu_count() or 1)  # reading and hashing let go of Python's lock
_BLOCK = 1024


def digests(
    sources: Sequence[Source], store: ArrayStore, mine: slice, wait: Callable[[], None], progress: bool
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
            desc="checking files", total=len(unread), unit=" files", disable=not progress or len(unread) < _BLOCK
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
    store.mark_used(places)
    if not mine.start:  # the first of those that see the folder
        store.write_index()
    if (places < 0).any():  # a rank's file system does not show yet what another has written
        missing = sources[int(np.argmin(places))].signature()
        raise InputError(f"{store.folder}: lacks what another rank wrote about {missing}; start again")
    return np.ascontiguousarray(store.column("digest", places)).view(KEY).reshape(-1)
