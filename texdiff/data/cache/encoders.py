"""What the frozen encoders make of a dataset, in batches, and how it is kept.

A texture's entry holds the moments μ and σ of the VAE's posterior, so that each visit draws a fresh latent, its mask
at the image's size, and how much the texture varies inside and outside of it; a caption's holds its embeddings. An
entry's key is a hash of the files' content, of every setting that changes the result and of the encoder's weights,
and of nothing else: no date, no path.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from texdiff.data.cache.keys import FORMAT, Keys, as_keys, key_of
from texdiff.data.cache.store import SHARD_ENTRIES, Arrays, ArrayStore, Stores
from texdiff.data.caption_length import CLIP_TOKENS
from texdiff.data.mask_weights import THRESHOLD
from texdiff.data.record import Record
from texdiff.uv.hiding import Hiding
from texdiff.uv.inverted import variation
from texdiff.uv.resize import is_grey

_THREADS = min(8, os.cpu_count() or 1)  # decode and fill images while the encoder works
PIXELS = 1 << 20  # of one pass through the encoder on an accelerator: some 4 GB for Stable Diffusion's VAE
_CAPTIONS = 64  # of one pass through the text encoder on an accelerator

Encodes = Literal["images", "prompts"]
Item = TypeVar("Item")
Made = TypeVar("Made")


class Encoders(Protocol):
    """The frozen encoders of a model family."""

    @property
    def source(self) -> str:
        """Folder or hub id of the base model."""
        ...

    @property
    def latent_factor(self) -> int:
        """Pixels along a side of a latent cell."""
        ...

    @property
    def max_tokens(self) -> int:
        """What `encode_prompts` reads of a prompt, without marks of start and end; the rest is cut."""
        ...

    @property
    def hiding(self) -> Hiding | None:
        """What of a texture the denoiser is not shown, where it is one for inpainting."""
        ...

    def encoder_state(self, encodes: Encodes) -> tuple[object, ...]:
        """Changes whenever an encoder's files do; it may change more often. Known without reading them."""
        ...

    def encoder_content(self, encodes: Encodes) -> tuple[object, ...]:
        """Changes whenever what the encoder computes does."""
        ...

    def move_encoders(self, device: torch.device | str, *encodes: Encodes) -> None:
        """Bring these encoders to a device, and load them before if they aren't there yet; if none is named, those
        that are."""
        ...

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [B, C, h, w] of the posterior of pixels [B, 3, H, W] in [-1, 1], not scaled."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """What the denoiser is given of prompts, by name, float32 [B, L, ...] each; an array may be repeated along L
        any number of times."""
        ...


def fingerprint_of(family: Encoders, encodes: Encodes, stores: Stores) -> str:
    """Hash of all that an encoder's answers depend on. It is remembered by the state of the encoder's files, so that
    one of which nothing is needed need not be loaded."""
    store = stores.open("models", family.source)
    store.load()
    place = store.find(as_keys([key_of(FORMAT, *family.encoder_state(encodes))]))[0]
    if place < 0:
        found = key_of(*family.encoder_content(encodes))
        key = key_of(FORMAT, *family.encoder_state(encodes))  # asked again: loading may have brought the files
        store.add(key, {"fingerprint": np.frombuffer(found, np.uint8)})
        store.flush()
        place = store.find(as_keys([key]))[0]
    store.mark_used(np.array([place]))
    return store.get(int(place))["fingerprint"].tobytes().hex()


@dataclass(frozen=True)
class AtlasSize:
    """The side that an atlas is brought to, in pixels: that of its longer side, from `least` to `most`, times `scale`,
    but not below `least`. It is a multiple of `unit`, as the bounds are."""

    least: int
    most: int
    scale: float
    unit: int

    def of(self, height: int, width: int) -> int:
        """That of an atlas of this size."""
        own = min(max(height, width), self.most) * self.scale
        return max(self.least, round(own / self.unit) * self.unit)


def prepare_texture(
    record: Record, resolution: int | AtlasSize, background: str | int
) -> tuple[Tensor, dict[str, NDArray[Any]]]:
    """The image float32 [3, R, R] for the encoder, R being `resolution`, and what an entry holds beside its moments:
    mask uint8 [R, R / 8] of packed bits, or uint8 [R, R] of weights in 255ths where there are others than 0 and 1; and
    variation float32 [2], how much the texture varies inside its mask and outside; NaN where one of these is next to
    nothing.

    Raises InputError, naming the file, for a record that cannot be used.
    """
    texture, weights = record.read_weighted()
    side = resolution if isinstance(resolution, int) else resolution.of(*weights.shape)
    image, small = record.fit(texture, weights, side, background)
    mask = small if is_grey(small) else np.packbits(small > 0, axis=1)
    return image, {"mask": mask, "variation": _variation(texture, weights >= THRESHOLD)}


def encode_textures(
    records: Sequence[Record], encoders: Encoders, device: torch.device, *, resolution: int, background: str | int
) -> Iterator[dict[str, NDArray[Any]]]:
    """The entry of each record in its order: what `prepare_texture` gives, and mean and std float32 [C, h, w].

    On a CPU, where a batch gains nothing, images are encoded one at a time, so the result is the same to the bit
    whatever else is in the batch. Raises InputError as `prepare_texture` does.
    """
    size = 1 if device.type == "cpu" else max(1, PIXELS // resolution**2)
    for batch in _batches(ahead(lambda record: prepare_texture(record, resolution, background), records), size):
        moments = encoders.encode_images(torch.stack([pixels for pixels, _ in batch]))
        mean, std = (moment.float().cpu().numpy() for moment in moments)
        for row, (_, entry) in enumerate(batch):
            yield {"mean": mean[row], "std": std[row], **entry}


def encode_captions(
    captions: Sequence[str], encoders: Encoders, device: torch.device
) -> Iterator[dict[str, NDArray[Any]]]:
    """The entry of each caption in its order: `encode_prompts` of it. One at a time on a CPU, as with textures, and
    where lengths differ, so that none is kept longer than it is."""
    alone = device.type == "cpu" or encoders.max_tokens > CLIP_TOKENS
    for batch in _batches(iter(captions), 1 if alone else _CAPTIONS):
        encoded = {name: tensor.cpu().numpy() for name, tensor in encoders.encode_prompts(batch).items()}
        yield from ({name: array[row] for name, array in encoded.items()} for row in range(len(batch)))


def fill_store(
    store: ArrayStore,
    keys: Keys,
    encode: Callable[[list[int]], Iterable[Arrays]],
    *,
    what: str,
    unit: str = "",
    least: int = 1,
    mine: slice = slice(None),
    wait: Callable[[], None] = lambda: None,
    progress: bool = True,
) -> NDArray[np.int64]:
    """Make the entries that `store` lacks, and return the place of each key [n].

    `encode` gives the entries of the indices it is given. `mine` picks this rank's share of the work, and `wait` lets
    every rank come to the same point. What is done is kept, whatever stops the rest. A bar called `what` shows how far
    it is, where `least` entries or more are lacking.
    """
    store.load()
    places, missing = store.find(keys), []
    if (places < 0).any():
        _, first = np.unique(keys, return_index=True)
        share = _share(np.sort(first), mine)  # of all, since another rank may be done with some of its own already
        missing = share[places[share] < 0].tolist()
    try:
        if missing:
            silent = not progress or len(missing) < least
            entries = tqdm(encode(missing), desc=what, total=len(missing), unit=unit, disable=silent)
            for index, entry in zip(missing, entries, strict=True):
                store.add(keys[index].ljust(keys.itemsize, b"\0"), entry)
    finally:
        store.flush()
    wait()
    if store.load() or missing:
        places = store.find(keys)
    store.mark_used(places)
    if not mine.start:  # the first of those that see the folder
        store.write_index()
    return places


def _share(indices: NDArray[np.int64], mine: slice) -> NDArray[np.int64]:
    """This rank's part of the indices [n]. Of many, as many that follow one another as a shard has: what is visited in
    blocks of them is then read from few shards."""
    ranks = mine.step or 1
    run = max(1, min(SHARD_ENTRIES, len(indices) // (8 * ranks)))
    return indices[np.arange(len(indices)) // run % ranks == (mine.start or 0)]


def _variation(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`variation` of some 512 of the texture's rows, which are enough."""
    step = max(1, len(mask) // 512)
    return np.array(variation(texture[::step], mask[::step]) or (np.nan, np.nan), np.float32)


def ahead(work: Callable[[Item], Made], items: Sequence[Item], waiting: int = 2 * _THREADS) -> Iterator[Made]:
    """`work` of each item in order, done in threads, up to `waiting` of them before they are asked for."""
    with ThreadPoolExecutor(_THREADS) as pool:
        coming: list[Future[Made]] = []
        try:
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) > waiting:
                    yield coming.pop(0).result()
            while coming:
                yield coming.pop(0).result()
        finally:
            for future in coming:
                future.cancel()


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    return iter(lambda: list(islice(items, size)), [])
