"""How the masks of a dataset are read, remembered by their files' hashes."""

from collections.abc import Callable, Sequence

import numpy as np

from texdiff.data.cache.encoders import ahead, fill_store
from texdiff.data.cache.keys import KEY, Keys, as_keys, key_of
from texdiff.data.cache.store import Arrays, ArrayStore
from texdiff.data.mask_weights import MaskKind, mask_kind
from texdiff.data.record import Record
from texdiff.errors import InputError


def mask_kinds(
    records: Sequence[Record], masks: Keys, store: ArrayStore, mine: slice, wait: Callable[[], None], progress: bool
) -> list[MaskKind]:
    """How each record's mask is read [n]; `masks` [n] are the hashes of their files. The rest is as with `digests`.

    Raises InputError, naming the record, for a mask that cannot be decoded.
    """

    def kind(index: int) -> Arrays:
        return {"kind": np.array([mask_kind(records[index].read_grey())], np.uint8)}

    places = fill_store(
        store,
        masks,
        lambda missing: ahead(kind, missing),
        what="looking at masks",
        mine=mine,
        wait=wait,
        progress=progress,
    )
    if (places < 0).any():  # a rank's file system does not show yet what another has written
        raise InputError(f"{store.folder}: lacks what another rank wrote about masks; start again")
    return [MaskKind(number) for number in store.column("kind", places)[:, 0].tolist()]


def read_as(masks: Keys, kinds: Sequence[MaskKind]) -> Keys:
    """The hashes of masks' files [n], others for those that are read as weights: once their greys were cut."""
    pairs = zip(masks.tolist(), kinds, strict=True)
    return as_keys(
        [
            key_of("weights", mask) if kind is MaskKind.WEIGHTS else mask.ljust(KEY.itemsize, b"\0")
            for mask, kind in pairs
        ]
    )
