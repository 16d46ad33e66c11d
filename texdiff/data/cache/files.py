"""What is remembered of files, by their state, so that those that have not changed are not read again: their hashes,
and whether they can be read, where a run does without the others (data.unreadable skip)."""

import hashlib
import sys
from collections.abc import Callable, Sequence

import numpy as np

from texdiff.data.cache.encoders import ahead, fill_store
from texdiff.data.cache.keys import KEY, Keys, as_keys, key_of
from texdiff.data.cache.store import Arrays, ArrayStore
from texdiff.data.columns import Column, pick
from texdiff.data.image_source import Source
from texdiff.data.record import Record
from texdiff.errors import InputError
from texdiff.storage import ConnectionBroken

_SHOWN = 1024  # files, from which on their reading shows a bar
NOT_THERE = b"a file missing !"  # in place of the key of a record of which a file is missing, which is not remembered


def digests(
    sources: Sequence[Source], store: ArrayStore, mine: slice, wait: Callable[[], None], progress: bool
) -> Keys:
    """A hash of each source's bytes, [n]. `store` remembers them by signature, so what has not changed is not read.

    `mine` picks this rank's share of the reading, and `wait` lets every rank come to the same point.
    """
    signatures = sources.take_looks() if isinstance(sources, Column) else None
    if signatures is None:
        signatures = as_keys(key_of(source.signature()) for source in sources)

    def digest(index: int) -> Arrays:
        found = hashlib.blake2b(sources[index](), digest_size=KEY.itemsize).digest()
        return {"digest": np.frombuffer(found, np.uint8)}

    places = fill_store(
        store,
        signatures,
        lambda unread: ahead(digest, unread),
        what="checking files",
        unit=" files",
        least=_SHOWN,
        mine=mine,
        wait=wait,
        progress=progress,
    )
    if (places < 0).any():  # a rank's file system does not show yet what another has written
        missing = sources[int(np.argmin(places))].signature()
        raise InputError(f"{store.place}: lacks what another rank wrote about {missing}; start again")
    return np.ascontiguousarray(store.column("digest", places)).view(KEY).reshape(-1)


def readable(
    records: Sequence[Record],
    store: ArrayStore,
    *,
    resolution: int,
    mine: slice = slice(None),
    wait: Callable[[], None] = lambda: None,
    say: bool = True,
) -> Sequence[Record]:
    """The records whose texture, mask and layout map, if they have one, can be used at `resolution`; the others are
    named on stderr, and counted.

    `store` remembers the answers by the files' state. `mine` picks this rank's share of the reading, and `wait` lets
    every rank come to the same point. Raises InputError where none is left.
    """
    keys = as_keys(_key(record, resolution) for record in records)
    there = np.flatnonzero(keys != NOT_THERE)

    def answer(number: int) -> Arrays:
        return {"problem": np.frombuffer(_problem(records[there[number]], resolution).encode(), np.uint8)}

    kept, problems = [], []
    places = np.full(len(records), -1)
    places[there] = fill_store(
        store,
        keys[there],
        lambda unknown: ahead(answer, unknown),
        what="checking textures",
        mine=mine,
        wait=wait,
        progress=False,
    )
    for number, place in enumerate(places.tolist()):
        known = place >= 0
        problem = store.get(place)["problem"].tobytes().decode() if known else _problem(records[number], resolution)
        if problem:
            problems.append(problem)
        else:
            kept.append(number)
    if say and problems:
        for number, problem in enumerate(problems, start=1):
            print(f"left out, {number} of {len(records)}: {problem}", file=sys.stderr, flush=True)
    if not kept and problems:
        raise InputError(f"none of {len(records)} textures can be read; the first: {problems[0]}")
    return pick(records, kept) if problems else records


def _key(record: Record, resolution: int) -> bytes:
    """What the answer depends on."""
    try:
        layout = [record.layout.signature()] if record.layout is not None else []
        return key_of("readable", resolution, record.image.signature(), record.mask.signature(), *layout)
    except InputError:
        return NOT_THERE


def _problem(record: Record, resolution: int) -> str:
    try:
        record.model_input(resolution, "keep")
        if record.layout is not None:
            record.layout_map(resolution)
    except ConnectionBroken:  # which says nothing of the texture
        raise
    except InputError as error:
        return str(error)
    return ""
