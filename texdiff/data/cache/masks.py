"""The masks of a dataset: how they are read, remembered by their files' hashes, and what latent cells weigh by them."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from texdiff.data.cache.encoders import ahead, fill_store
from texdiff.data.cache.encodings import Cells, LatentMask, covered_share, texel_weights
from texdiff.data.cache.keys import Keys, as_keys, each, key_of
from texdiff.data.cache.settings import MaskSettings
from texdiff.data.cache.store import Arrays, ArrayStore
from texdiff.data.mask_weights import MaskKind, mask_kind
from texdiff.data.record import Record
from texdiff.diffusion.mask import cell_weights
from texdiff.errors import InputError


def mask_kinds(
    records: Sequence[Record], masks: Keys, store: ArrayStore, mine: slice, wait: Callable[[], None], progress: bool
) -> NDArray[np.uint8]:
    """How each record's mask is read, a `MaskKind` [n]; `masks` [n] are the hashes of their files. The rest is as with
    `digests`.

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
        raise InputError(f"{store.place}: lacks what another rank wrote about masks; start again")
    return store.column("kind", places)[:, 0]


def read_as(masks: Keys, kinds: NDArray[np.uint8]) -> Keys:
    """The hashes of masks' files [n], others for those that are read as weights: once their greys were cut."""
    weights = kinds == MaskKind.WEIGHTS
    found = masks.copy()
    found[weights] = as_keys(key_of("weights", mask) for mask in each(masks[weights]))
    return found


class LatentMasks:
    """What the latent cells of textures weigh by a run's settings; `factor` pixels along a side of a cell."""

    def __init__(self, mask: MaskSettings, factor: int) -> None:
        self.mask, self.factor = mask, factor
        self.by_surface = mask.weight == "surface"

    def __call__(self, record: Record, entry: Arrays) -> Cells:
        """The cells of a record, by its texture's entry."""
        side, mask = len(entry["mask"]), self.mask
        cells = side // self.factor
        target, outside, _ = cell_weights(
            torch.from_numpy(texel_weights(entry["mask"]))[None, None],
            (cells, cells),
            mask.downsample,
            mask.outside_weight,
            mask.dilation,
            torch.from_numpy(record.density(side))[None, None] if self.by_surface else None,
        )
        return Cells(target[0].numpy(), outside[0].numpy(), covered_share(entry["mask"], cells))


def mask_entries(
    records: Iterable[Record],
    entries: Iterable[Arrays],
    latent_mask: LatentMask,
    outside: bool,
    more: Callable[[Cells], Arrays] = lambda cells: {},
) -> Iterator[Arrays]:
    """For each record and its texture's entry: target float32 [1, h, w], the `sums` of its cells float32 [5], and
    outside float32 [1, h, w] if that is asked for, and what `more` gives. The covered share follows from the texture's
    own entry."""
    for record, entry in zip(records, entries, strict=True):
        cells = latent_mask(record, entry)
        kept = {"target": cells.target, "sums": cells.sums(entry["mask"]), **more(cells)}
        yield kept | {"outside": cells.outside} if outside else kept
