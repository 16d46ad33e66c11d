"""Encoded textures and captions for training: kept from the start, or made anew at every visit."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from texdiff.data.cache import caption_keys
from texdiff.data.dataset import Record
from texdiff.data.store import Entry, EntryStore
from texdiff.errors import InputError

Array = NDArray[Any]
LatentMask = Callable[[Record, Entry], Tensor]
"""From a record and its texture's entry to the weights of its latent texels, float [1, h, w]."""


class Encoded(Protocol):
    """n textures by their index, and captions."""

    def textures(self, indices: Sequence[int]) -> list[tuple[Array, Array, Array]]:
        """Of each: mean and std float32 [C, h, w], weights of its latent texels float32 [1, h, w]."""
        ...

    def mask(self, index: int) -> Array:
        """Weights of a texture's latent texels, float32 [1, h, w]."""
        ...

    def captions(self, captions: Sequence[str]) -> list[Array]:
        """Of each its embedding, float32 [L, D]."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kept:
    """From stores, on disk or in memory, by places [n] in them. `text_weights` is the text encoder's fingerprint.

    Arrays are views of the store.
    """

    texture_store: EntryStore
    texture_places: NDArray[np.int64]
    mask_store: EntryStore
    mask_places: NDArray[np.int64]
    caption_store: EntryStore
    text_weights: str

    def textures(self, indices: Sequence[int]) -> list[tuple[Array, Array, Array]]:
        entries = [self.texture_store.get(int(self.texture_places[i])) for i in indices]
        return [(entry["mean"], entry["std"], self.mask(i)) for i, entry in zip(indices, entries, strict=True)]

    def mask(self, index: int) -> Array:
        return self.mask_store.get(int(self.mask_places[index]))["weights"]

    def captions(self, captions: Sequence[str]) -> list[Array]:
        places = self.caption_store.find(caption_keys(captions, self.text_weights))
        if (places < 0).any():
            lost = captions[int(np.argmin(places))]
            raise InputError(f"{self.caption_store.folder}: the cache entry of {lost!r} has gone; start again")
        return [self.caption_store.get(int(place))["text"] for place in places]


@dataclass(frozen=True, kw_only=True)
class Fresh:
    """Made by the frozen models, which stay loaded."""

    records: Sequence[Record]
    encode_textures: Callable[[Sequence[Record]], Iterator[Entry]]
    encode_captions: Callable[[Sequence[str]], Iterator[Entry]]
    prepare: Callable[[Record], Entry]
    latent_mask: LatentMask

    def textures(self, indices: Sequence[int]) -> list[tuple[Array, Array, Array]]:
        records = [self.records[i] for i in indices]
        entries = zip(records, self.encode_textures(records), strict=True)
        return [(entry["mean"], entry["std"], self.latent_mask(record, entry).numpy()) for record, entry in entries]

    def mask(self, index: int) -> Array:
        record = self.records[index]
        return self.latent_mask(record, self.prepare(record)).numpy()

    def captions(self, captions: Sequence[str]) -> list[Array]:
        return [entry["text"] for entry in self.encode_captions(captions)]


def mask_entries(records: Iterable[Record], entries: Iterable[Entry], latent_mask: LatentMask) -> Iterator[Entry]:
    """For each record and its texture's entry: weights float32 [1, h, w], and texels float32 [], their sum."""
    for record, entry in zip(records, entries, strict=True):
        weights = latent_mask(record, entry)
        yield {"weights": weights.numpy(), "texels": weights.sum().numpy()}
