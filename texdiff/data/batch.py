"""The cached dataset as the training loop sees it: batches of moments, latent masks and text embeddings."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from texdiff.data.cache import TensorStore, read_texture
from texdiff.data.dataset import Record
from texdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TextureBatch:
    """B textures."""

    names: tuple[str, ...]
    mean: Tensor  # [B, C, h, w] μ of the VAE's posterior, not scaled
    std: Tensor  # [B, C, h, w] σ
    mask: Tensor  # [B, 1, h, w] what each latent texel counts in the loss, 0-1
    text: Tensor  # [B, L, D] text embedding

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextureBatch":
        """The same batch on `device`; only the text embedding takes `dtype`, the loss needs the rest exact."""
        return TextureBatch(
            names=self.names,
            mean=self.mean.to(device, non_blocking=True),
            std=self.std.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            text=self.text.to(device, dtype, non_blocking=True),
        )


class LatentDataset:
    """Reads cached textures and captions by their index.

    `latent_mask` maps a mask float [1, 1, R, R] to the weights of the latent texels, [1, 1, h, w].
    `posterior` "mean" makes every σ 0. Raises InputError, naming them, for textures of which no latent texel counts.
    """

    def __init__(
        self,
        records: Sequence[Record],
        store: TensorStore,
        texture_keys: Sequence[str],
        caption_keys: dict[str, str],
        latent_mask: Callable[[Tensor], Tensor],
        posterior: str = "sample",
        progress: bool = False,
    ) -> None:
        self.records = records
        self.store = store
        self.texture_keys = texture_keys
        self.caption_keys = caption_keys
        self.latent_mask = latent_mask
        self.posterior = posterior
        self.content = hashlib.blake2b(repr(texture_keys).encode(), digest_size=8).hexdigest()
        masks = (self.mask(i) for i in range(len(records)))
        masks = tqdm(
            masks, desc="counting texels", total=len(records), unit="", disable=not progress or len(self) < 1000
        )
        self.texels = torch.stack([mask.sum() for mask in masks])  # [n] N_b of each texture
        mean = read_texture(store, texture_keys[0], records[0].name).mean
        self.latent_shape = (mean.shape[0], mean.shape[1], mean.shape[2])  # (C, h, w)
        self.cells = self.latent_shape[1] * self.latent_shape[2]
        if lost := [r.name for r, total in zip(records, self.texels.tolist(), strict=True) if not total]:
            raise InputError(
                f"{lost[0]}: none of its covered texels is left at latent size"
                + (f" (nor of {len(lost) - 1} others)" if len(lost) > 1 else "")
                + "; set mask.downsample to area or any, raise data.resolution, or take it out of the dataset"
            )

    def __len__(self) -> int:
        return len(self.records)

    def mask(self, index: int) -> Tensor:
        """Weights of a texture's latent texels, [1, h, w]."""
        cached = read_texture(self.store, self.texture_keys[index], self.records[index].name)
        return self.latent_mask(cached.mask[None])[0]

    def batch(self, indices: Sequence[int], chance: Tensor | None = None, caption_dropout: float = 0.0) -> TextureBatch:
        """The textures `indices`, on the CPU.

        `chance` [B, 2], uniform in [0, 1), picks among a texture's captions and decides whether it is dropped;
        without it each texture comes with its first caption.
        """
        cached = [read_texture(self.store, self.texture_keys[i], self.records[i].name) for i in indices]
        captions = []
        for row, index in enumerate(indices):
            choices = self.records[index].captions
            which, drop = (0.0, 1.0) if chance is None else chance[row].tolist()
            captions.append("" if drop < caption_dropout else choices[int(which * len(choices))])
        return TextureBatch(
            names=tuple(c.name for c in cached),
            mean=torch.stack([c.mean for c in cached]),
            std=torch.stack([c.std if self.posterior == "sample" else torch.zeros_like(c.std) for c in cached]),
            mask=torch.cat([self.latent_mask(c.mask[None]) for c in cached]),
            text=torch.stack([self._text(caption) for caption in captions]),
        )

    def _text(self, caption: str) -> Tensor:
        entry = self.store.get(key := self.caption_keys[caption])
        if entry is None:
            raise InputError(f"{self.store.path(key)}: has gone since it was cached; start again to rebuild it")
        return entry["text"]
