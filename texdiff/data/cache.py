"""What the frozen models make of the dataset, computed once and kept on disk.

A texture's entry holds the moments μ and σ of the VAE's posterior, so that each visit draws a fresh latent, and
its mask at the picture's size. An entry's key is a hash of the files' content, of every setting that changes the
result and of the encoder's weights, and of nothing else: no date, no path.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from texdiff.data.dataset import Record
from texdiff.errors import InputError

FORMAT = "1"  # part of every key; a change of what an entry holds changes it


def default_cache_dir() -> Path:
    """texdiff/ in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "texdiff"


def fingerprint(module: nn.Module) -> str:
    """Hash of a module's weights, names and dtypes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class TensorStore:
    """Named groups of tensors, one safetensors file each, written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry, or None where there is none that can be read."""
        try:
            return load_file(self.path(key))
        except (FileNotFoundError, SafetensorError):
            return None

    def put(self, key: str, tensors: dict[str, Tensor]) -> None:
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside)
        aside.replace(path)

    def fill(self, jobs: Mapping[str, Callable[[], dict[str, Tensor]]], what: str, progress: bool) -> None:
        """Compute and store the entries that are missing; `jobs` maps each key to what computes it."""
        missing = {key: job for key, job in jobs.items() if self.get(key) is None}
        for key, job in tqdm(missing.items(), desc=what, unit="", disable=not (progress and missing)):
            self.put(key, job())


@dataclass(frozen=True, kw_only=True)
class CachedTexture:
    """One texture as training uses it."""

    name: str
    mean: Tensor  # [C, h, w] μ of the VAE's posterior, not scaled
    std: Tensor  # [C, h, w] σ
    mask: Tensor  # float [1, R, R] in {0, 1}


@torch.no_grad()
def cache_textures(
    records: Sequence[Record],
    store: TensorStore,
    vae: Any,
    *,
    resolution: int,
    background: str | int,
    mine: slice = slice(None),
    progress: bool = True,
) -> list[str]:
    """Encode what is not in the store yet, and return the key of each record.

    `vae` is a diffusers AutoencoderKL. `mine` picks this rank's share of the work; the keys are those of all.
    Raises InputError, naming the file, for a record that cannot be used.
    """
    weights = fingerprint(vae)
    keys = []
    for record in records:
        digest = hashlib.blake2b(f"texture {FORMAT} {resolution} {background} {weights}".encode(), digest_size=16)
        for data in (record.image(), record.mask()):
            digest.update(hashlib.blake2b(data).digest())
        keys.append(digest.hexdigest())

    def encode(record: Record) -> dict[str, Tensor]:
        picture, mask = record.model_input(resolution, background)
        posterior = vae.encode(picture[None].to(vae.device, vae.dtype)).latent_dist
        return {
            "mean": posterior.mean[0].float().cpu(),
            "std": posterior.std[0].float().cpu(),
            "mask": torch.from_numpy(np.packbits(mask, axis=1)),
        }

    jobs = {key: partial(encode, record) for key, record in list(zip(keys, records, strict=True))[mine]}
    store.fill(jobs, "encoding textures", progress)
    return keys


@torch.no_grad()
def cache_captions(
    captions: Sequence[str],
    store: TensorStore,
    tokenizer: Any,
    text_encoder: Any,
    *,
    mine: slice = slice(None),
    progress: bool = True,
) -> dict[str, str]:
    """Encode what is not in the store yet, and return the key of each caption."""
    weights = fingerprint(text_encoder)
    keys = {
        caption: hashlib.blake2b(f"caption {FORMAT} {weights} {caption}".encode(), digest_size=16).hexdigest()
        for caption in sorted(set(captions))
    }

    def encode(caption: str) -> dict[str, Tensor]:
        tokens = tokenizer(
            caption, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        )
        hidden = text_encoder(tokens.input_ids.to(text_encoder.device))[0]
        return {"text": hidden[0].float().cpu()}

    jobs = {key: partial(encode, caption) for caption, key in list(keys.items())[mine]}
    store.fill(jobs, "encoding captions", progress)
    return keys


def read_texture(store: TensorStore, key: str, name: str) -> CachedTexture:
    """The entry `key`; raises InputError where it has gone since it was cached."""
    entry = store.get(key)
    if entry is None:
        raise InputError(
            f"{store.path(key)}: the cache entry of {name} has gone or is damaged; start again to rebuild it"
        )
    bits = np.unpackbits(entry["mask"].numpy(), axis=1)
    return CachedTexture(
        name=name, mean=entry["mean"], std=entry["std"], mask=torch.from_numpy(bits).float().unsqueeze(0)
    )
