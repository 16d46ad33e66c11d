"""Which textures can be read: checked once each, where a run does without the others (data.unreadable skip)."""

import sys
from collections.abc import Callable, Sequence

import numpy as np

from texdiff.data.cache.encoders import ahead
from texdiff.data.cache.keys import KEY, as_keys, key_of
from texdiff.data.cache.store import ArrayStore
from texdiff.data.record import Record
from texdiff.errors import InputError

NOT_THERE = b"a file missing !"  # in place of the key of a record of which a file is missing, which is not remembered


def readable(
    records: Sequence[Record],
    store: ArrayStore,
    *,
    resolution: int,
    mine: slice = slice(None),
    wait: Callable[[], None] = lambda: None,
    say: bool = True,
) -> list[Record]:
    """The records whose texture, mask and layout map, if they have one, can be used at `resolution`; the others are
    named on stderr, and counted.

    `store` remembers the answers by the files' state. `mine` picks this rank's share of the reading, and `wait` lets
    every rank come to the same point. Raises InputError where none is left.
    """
    keys = as_keys([_key(record, resolution) for record in records])
    store.load()
    share = np.arange(len(records))[mine]
    unknown = share[(store.find(keys[share]) < 0) & (keys[share] != NOT_THERE)].tolist()
    try:
        for i, problem in ahead(lambda i: (i, _problem(records[i], resolution)), unknown):
            store.add(keys[i].ljust(KEY.itemsize, b"\0"), {"problem": np.frombuffer(problem.encode(), np.uint8)})
    finally:
        store.flush()
    wait()
    store.load()
    kept, problems = [], []
    places = store.find(keys)
    store.mark_used(places)
    if not mine.start:  # the first of those that see the folder
        store.write_index()
    for record, place in zip(records, places.tolist(), strict=True):
        known = place >= 0
        problem = store.get(place)["problem"].tobytes().decode() if known else _problem(record, resolution)
        if problem:
            problems.append(problem)
        else:
            kept.append(record)
    if say and problems:
        for number, problem in enumerate(problems, start=1):
            print(f"left out, {number} of {len(records)}: {problem}", file=sys.stderr, flush=True)
    if not kept and problems:
        raise InputError(f"none of {len(records)} textures can be read; the first: {problems[0]}")
    return kept


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
    except InputError as error:
        return str(error)
    return ""
