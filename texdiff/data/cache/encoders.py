"""What the frozen models make of the dataset, computed once and kept.

A texture's entry holds the moments μ and σ of the VAE's posterior, so that each visit draws a fresh latent, its mask
at the picture's size, and how much the picture varies inside and outside of it; a caption's holds its embedding. An
entry's key is a hash of the files' content, of every setting that changes the result and of the encoder's weights,
and of nothing else: no date, no path.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from texdiff.data.cache.store import Entry, EntryStore, Keys, as_keys, key_of
from texdiff.data.records import Record
from texdiff.uv.inverted import variation

FORMAT = "3"  # part of every key and folder; a change of what an entry holds changes it
_THREADS = min(8, os.cpu_count() or 1)  # decode and fill pictures while the encoder works
_PIXELS = 1 << 20  # of one pass through the encoder on an accelerator: some 4 GB for Stable Diffusion's VAE
_CAPTIONS = 64  # of one pass through the text encoder on an accelerator
# Settings of a model that do not change what it computes from given weights, or only what is done with it later.
_NO_MATTER = {"scaling_factor", "shift_factor", "latents_mean", "latents_std", "sample_size", "force_upcast", "dtype"}
_NO_MATTER |= {"torch_dtype", "transformers_version"}


def default_cache_dir() -> Path:
    """texdiff/ in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "texdiff"


def fingerprint(module: Any) -> str:
    """Hash of a model's weights, their names and dtypes, and of its settings."""
    digest = hashlib.blake2b(digest_size=16)
    config = dict(module.config.to_dict() if hasattr(module.config, "to_dict") else module.config)
    kept = {name: v for name, v in config.items() if not name.startswith("_") and name not in _NO_MATTER}
    digest.update(repr(sorted(kept.items())).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def texture_keys(
    images: Keys, masks: Keys, *, resolution: int, background: str | int, weights: str, extra: Sequence[object] = ()
) -> Keys:
    """The key of each texture [n], of the hashes of its files, [n] each. `extra`: further settings that matter."""
    settings = key_of("texture", FORMAT, resolution, background, weights, *extra)
    pairs = np.stack([images, masks], axis=1).tobytes()
    size = 2 * images.itemsize
    found = [hashlib.blake2b(settings + pairs[i : i + size], digest_size=16) for i in range(0, len(pairs), size)]
    return as_keys([digest.digest() for digest in found])


def caption_keys(captions: Iterable[str], weights: str) -> Keys:
    """The key of each caption."""
    return as_keys([key_of("caption", FORMAT, weights, caption) for caption in captions])


def prepare_texture(record: Record, resolution: int, background: str | int) -> tuple[Tensor, dict[str, NDArray[Any]]]:
    """The picture float32 [3, R, R] for the VAE, and what an entry says beside its moments: mask uint8 [R, R / 8] of
    packed bits, and variation float32 [2], how much the texture varies inside its mask and outside; NaN where one of
    these is next to nothing.

    Raises InputError, naming the file, for a record that cannot be used.
    """
    texture, mask = record.read()
    picture, small = record.fit(texture, mask, resolution, background)
    return picture, {"mask": np.packbits(small, axis=1), "variation": _variation(texture, mask)}


@torch.no_grad()
def encode_textures(
    records: Sequence[Record], vae: Any, *, resolution: int, background: str | int
) -> Iterator[dict[str, NDArray[Any]]]:
    """The entry of each record in its order: what `prepare_texture` says, and mean and std float32 [C, h, w].

    `vae` is a diffusers AutoencoderKL. On a CPU, where a batch gains nothing, pictures are encoded one at a time, so
    the result is the same to the bit whatever stands beside it. Raises InputError as `prepare_texture` does.
    """
    size = 1 if vae.device.type == "cpu" else max(1, _PIXELS // resolution**2)
    for batch in _batches(ahead(lambda record: prepare_texture(record, resolution, background), records), size):
        pictures = torch.stack([picture for picture, _ in batch]).to(vae.device, vae.dtype)
        posterior = vae.encode(pictures).latent_dist
        mean, std = (moment.float().cpu().numpy() for moment in (posterior.mean, posterior.std))
        for row, (_, entry) in enumerate(batch):
            yield {"mean": mean[row], "std": std[row], **entry}


@torch.no_grad()
def encode_captions(captions: Sequence[str], tokenizer: Any, text_encoder: Any) -> Iterator[dict[str, NDArray[Any]]]:
    """The entry of each caption in its order: text float32 [L, D]. One at a time on a CPU, as with textures."""
    size = 1 if text_encoder.device.type == "cpu" else _CAPTIONS
    for batch in _batches(iter(captions), size):
        tokens = tokenizer(
            batch, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        )
        for hidden in text_encoder(tokens.input_ids.to(text_encoder.device))[0].float().cpu().numpy():
            yield {"text": hidden}


def unpack_mask(entry: Entry) -> Tensor:
    """The mask of a texture's entry, float [1, R, R] in {0, 1}."""
    return torch.from_numpy(np.unpackbits(entry["mask"], axis=1)).float().unsqueeze(0)


def fill_store(
    store: EntryStore,
    keys: Keys,
    encode: Callable[[list[int]], Iterable[Entry]],
    *,
    what: str,
    mine: slice = slice(None),
    wait: Callable[[], None] = lambda: None,
    progress: bool = True,
) -> NDArray[np.int64]:
    """Make the entries that `store` lacks, and return the place of each key [n].

    `encode` gives the entries of the indices it is given. `mine` picks this rank's share of the work, and `wait` lets
    every rank come to the same point. What is done is kept, whatever stops the rest.
    """
    store.load()
    _, first = np.unique(keys, return_index=True)
    share = np.sort(first)[mine]  # of all of them, since another rank may be done with some of its own already
    missing = share[store.find(keys[share]) < 0].tolist()
    try:
        if missing:
            entries = tqdm(encode(missing), desc=what, total=len(missing), unit="", disable=not progress)
            for index, entry in zip(missing, entries, strict=True):
                store.add(keys[index].ljust(keys.itemsize, b"\0"), entry)
    finally:
        store.flush()
    wait()
    store.load()
    return store.find(keys)


def _variation(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`variation` of some 512 of the texture's rows, which are enough."""
    step = max(1, len(mask) // 512)
    return np.array(variation(texture[::step], mask[::step]) or (np.nan, np.nan), np.float32)


def ahead(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
    """`work` of each item in order, done in threads a little ahead."""
    with ThreadPoolExecutor(_THREADS) as pool:
        coming: list[Future[Any]] = []
        try:
            for item in items:
                coming.append(pool.submit(work, item))
                if len(coming) > 2 * _THREADS:
                    yield coming.pop(0).result()
            while coming:
                yield coming.pop(0).result()
        finally:
            for future in coming:
                future.cancel()


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
