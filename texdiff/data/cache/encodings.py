"""Encoded textures and captions for training: cached before it starts, or encoded anew at every visit."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from texdiff.data.cache.keys import caption_keys
from texdiff.data.cache.store import Arrays, ArrayStore
from texdiff.data.record import Record
from texdiff.errors import InputError
from texdiff.storage import ConnectionBroken
from texdiff.uv.layout.map_image import encode_map, read_map

Array = NDArray[Any]
Choice = tuple[int, int]
"""The index of a texture, and the variant in which it is hidden."""
SUMS = ("target", "outside", "covered", "dropped", "void")


class Cells(NamedTuple):
    """A texture's latent cells, float32 [1, h, w] each."""

    target: Array  # weight of the error against the training target
    outside: Array  # weight of the error against the target outside the mask
    covered: Array  # mean weight of the cell's texels, 0-1: of a binary mask, the share that is covered

    def sums(self, mask: Array) -> Array:
        """float32 [5], in cells: both weights and the covered share summed; the covered share in cells that do not
        count, so is dropped; the weight that lies on void. `mask` is the entry's."""
        dropped = np.where(self.target > 0, 0, self.covered)
        parts = (self.target, self.outside, self.covered, dropped, self.target * void_share(mask, self.target.shape[1]))
        return np.array([part.sum(dtype=np.float64) for part in parts], np.float32)


LatentMask = Callable[[Record, Arrays], Cells]
"""From a record and its texture's entry to its latent cells."""


class Texture(NamedTuple):
    """One encoded texture."""

    mean: Array  # float32 [C, h, w] μ of the VAE's posterior, not scaled
    std: Array  # float32 [C, h, w] σ
    mask: Array  # uint8 [R, R / 8] the mask's packed bits, or [R, R] its weights in 255ths
    cells: Cells
    layout: Array | None  # uint16 [R, R, 3] the layout map, where the records have one; 65535 is 1
    even: Array | None = None  # float32 [1, h, w], of a window: what its cells weigh more, being shown less often
    window: tuple[int, int, int] | None = None  # side of the atlas that it is of, its first row and column, in pixels


class Encodings(Protocol):
    """n textures by their index, and captions."""

    def textures(self, indices: Sequence[int], places: Array | None = None) -> list[Texture]:
        """These textures, or where there are windows those at `places` [B, 2]; arrays may be views of a store."""
        ...

    def cells(self, index: int) -> Cells:
        """A texture's latent cells alone."""
        ...

    def captions(self, captions: Sequence[str]) -> list[Arrays]:
        """Of each its embeddings by name, float32."""
        ...

    def known(self, choices: Sequence[Choice]) -> list[Array]:
        """Of textures in their variants what `texdiff.data.cache.known` makes of them: float32 [1 + C, h, w]."""
        ...


@dataclass(frozen=True, kw_only=True)
class CachedEncodings:
    """From stores, on disk or in memory, by places [n] in them. `text_weights` is the text encoder's fingerprint.

    Arrays are views of the store.
    """

    texture_store: ArrayStore
    texture_places: NDArray[np.int64]
    mask_store: ArrayStore
    mask_places: NDArray[np.int64]
    caption_store: ArrayStore
    text_weights: str
    layout_store: ArrayStore | None = None
    """Of maps as PNGs, a tenth of what they are in memory; None where the records have none."""
    layout_places: NDArray[np.int64] | None = None
    known_store: ArrayStore | None = None
    """For an inpainting base."""
    known_places: NDArray[np.int64] | None = None
    """[n, variants]"""

    def textures(self, indices: Sequence[int], places: Array | None = None) -> list[Texture]:
        entries = [self.texture_store.get(int(self.texture_places[i])) for i in indices]
        return [
            Texture(entry["mean"], entry["std"], entry["mask"], self._cells(index, entry), self._layout(index))
            for index, entry in zip(indices, entries, strict=True)
        ]

    def cells(self, index: int) -> Cells:
        return self._cells(index, self.texture_store.get(int(self.texture_places[index])))

    def _cells(self, index: int, entry: Arrays) -> Cells:
        kept = self.mask_store.get(int(self.mask_places[index]))
        return self._weights(kept, covered_share(entry["mask"], kept["target"].shape[1]))

    @staticmethod
    def _weights(kept: Arrays, covered: Array) -> Cells:
        outside = kept["outside"] if "outside" in kept else np.zeros_like(kept["target"])
        return Cells(kept["target"], outside, covered)

    def _layout(self, index: int) -> Array | None:
        if self.layout_store is None or self.layout_places is None:
            return None
        return read_map(self.layout_store.get(int(self.layout_places[index]))["layout"].tobytes())

    def captions(self, captions: Sequence[str]) -> list[Arrays]:
        places = self.caption_store.find(caption_keys(captions, self.text_weights))
        if (places < 0).any():
            lost = captions[int(np.argmin(places))]
            raise InputError(f"{self.caption_store.place}: the cache entry of {lost!r} has gone; start again")
        return [self.caption_store.get(int(place)) for place in places]

    def known(self, choices: Sequence[Choice]) -> list[Array]:
        assert self.known_store is not None, "no inpainting base"
        assert self.known_places is not None
        return [self.known_store.get(int(self.known_places[choice]))["known"] for choice in choices]


@dataclass(frozen=True, kw_only=True)
class LiveEncodings:
    """Encoded at every visit by the frozen models, which stay loaded."""

    records: Sequence[Record]
    encode_textures: Callable[[Sequence[Record]], Iterator[Arrays]]
    encode_captions: Callable[[Sequence[str]], Iterator[Arrays]]
    prepare: Callable[[Record], Arrays]
    latent_mask: LatentMask
    resolution: int
    encode_known: Callable[[Sequence[tuple[Record, int]]], Iterator[Arrays]]
    skip: bool = False
    """A texture that can no longer be read counts for nothing at that visit."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Such visits by the texture's name."""

    def textures(self, indices: Sequence[int], places: Array | None = None) -> list[Texture]:
        records = [self.records[i] for i in indices]
        try:
            entries = list(self.encode_textures(records))
            layouts = [record.layout_map(self.resolution) if record.layout else None for record in records]
        except InputError as error:
            if not self.skip or isinstance(error, ConnectionBroken):
                raise
            if len(records) > 1:
                return [texture for index in indices for texture in self.textures([index])]
            return [self._left_out(records[0], error)]
        return [
            Texture(e["mean"], e["std"], e["mask"], self.latent_mask(record, e), layout)
            for record, e, layout in zip(records, entries, layouts, strict=True)
        ]

    def _left_out(self, record: Record, error: InputError) -> Texture:
        """A texture of which no cell counts, in the form of the first that can be read."""
        self.skipped[record.name] += 1
        print(f"left out, {self.skipped.total()} visits so far: {error}", file=sys.stderr, flush=True)
        like = next((record for record in self.records if record.name not in self.skipped), None)
        if like is None:
            raise error
        (entry,) = self.encode_textures([like])
        mean, std, mask = (np.zeros_like(entry[name]) for name in ("mean", "std", "mask"))
        no_cells = Cells(*(np.zeros_like(part) for part in self.latent_mask(like, entry)))
        no_layout = np.zeros((self.resolution, self.resolution, 3), np.uint16) if record.layout else None
        return Texture(mean, std, mask, no_cells, no_layout)

    def cells(self, index: int) -> Cells:
        record = self.records[index]
        return self.latent_mask(record, self.prepare(record))

    def captions(self, captions: Sequence[str]) -> list[Arrays]:
        return list(self.encode_captions(captions))

    def known(self, choices: Sequence[Choice]) -> list[Array]:
        # One that can no longer be read has been left out already, and counts for nothing.
        readable = next((r for r in self.records if r.name not in self.skipped), self.records[0])
        pairs = [(self.records[i], number) for i, number in choices]
        pairs = [(readable if record.name in self.skipped else record, number) for record, number in pairs]
        return [entry["known"] for entry in self.encode_known(pairs)]


def layout_entries(records: Iterable[Record], resolution: int) -> Iterator[Arrays]:
    """Of each record's layout map a PNG, uint8 [n], at the size that textures are trained at."""
    for record in records:
        yield {"layout": np.frombuffer(encode_map(record.layout_map(resolution)), np.uint8)}


def is_packed(mask: Array) -> bool:
    """Whether an entry's mask is packed bits, not weights."""
    return mask.shape[0] != mask.shape[1]


def texel_weights(mask: Array) -> Array:
    """The weights that an entry's mask holds, in 255ths or as packed bits, float32 [R, R] in [0, 1]."""
    if is_packed(mask):
        return np.unpackbits(mask, axis=1).astype(np.float32)
    return mask.astype(np.float32) / np.float32(255)


def covered_share(mask: Array, cells: int) -> Array:
    """The mean weight in each of `cells` x `cells` cells of an entry's mask, float32 [1, h, w]: of packed bits, the
    share that is set."""
    if is_packed(mask):
        return _means(np.unpackbits(mask, axis=1), cells)
    return _means(mask, cells) / np.float32(255)


def void_share(mask: Array, cells: int) -> Array:
    """The share of texels without weight in each of `cells` x `cells` cells of an entry's mask, float32 [1, h, w]."""
    return 1 - covered_share(mask, cells) if is_packed(mask) else _means(mask == 0, cells)


def _means(texels: Array, cells: int) -> Array:
    """Float32 [1, h, w]; of a power of two integers each, so exact."""
    side = len(texels) // cells
    return texels.reshape(1, cells, side, cells, side).mean(axis=(2, 4), dtype=np.float32)
