"""What cached entries are found by: hashes of files, of a model, and of every setting that changes the result."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from texdiff.data.columns import Column, Keys

FORMAT = "3"  # part of every key and folder; a change of what an entry holds changes it
KEY = np.dtype("S16")
_AT_ONCE = 1 << 16  # keys that are Python's objects at a time
# Settings of a model that do not change what it computes from given weights, or only what is done with it later.
_NO_MATTER = {"scaling_factor", "shift_factor", "latents_mean", "latents_std", "sample_size", "force_upcast", "dtype"}
_NO_MATTER |= {"torch_dtype", "transformers_version"}


def key_of(*parts: object) -> bytes:
    """A hash of `parts`, 16 bytes."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def as_keys(keys: Iterable[bytes]) -> Keys:
    """Keys of 16 bytes each as one array."""
    return np.fromiter(keys, KEY)


def each(keys: Keys) -> Iterator[bytes]:
    """The keys as Python's bytes, without the zeros at the end."""
    for start in range(0, len(keys), _AT_ONCE):
        yield from keys[start : start + _AT_ONCE].tolist()


def key_of_lists(*parts: object) -> bytes:
    """`key_of` of `parts`, those that are columns as if they were lists, without the text of them all at once."""
    digest = hashlib.blake2b(digest_size=16)
    for number, part in enumerate(parts):
        digest.update(b", " if number else b"(")
        if isinstance(part, Column):
            items, begun = iter(part), b"["
            while some := list(islice(items, _AT_ONCE)):
                digest.update(begun + ", ".join(map(repr, some)).encode())
                begun = b", "
            digest.update(b"]" if len(part) else b"[]")
        elif isinstance(part, bytes):
            for text in _repr(part):
                digest.update(text.encode())
        else:
            digest.update(repr(part).encode())
    digest.update(b",)" if len(parts) == 1 else b")")
    return digest.digest()


def _repr(part: bytes) -> Iterator[str]:
    """`repr`, piece by piece: of the keys of a million textures it takes several times their own size."""
    double = b"'" in part and b'"' not in part
    yield 'b"' if double else "b'"
    for start in range(0, len(part), _AT_ONCE):
        some = part[start : start + _AT_ONCE]
        # With both quotes in it, a single one stands around it and is escaped in it.
        yield repr(some)[2:-1] if double else repr(some + b"'\"")[2:-4]
    yield '"' if double else "'"


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
    begun = hashlib.blake2b(settings, digest_size=16)

    def hashed() -> Iterator[bytes]:
        for start in range(0, len(images), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            for pair in np.stack([images[part], masks[part]], axis=1).view(f"V{2 * images.itemsize}")[:, 0].tolist():
                digest = begun.copy()
                digest.update(pair)
                yield digest.digest()

    return as_keys(hashed())


def caption_keys(captions: Iterable[str], weights: str) -> Keys:
    """The key of each caption."""
    return as_keys(key_of("caption", FORMAT, weights, caption) for caption in captions)
