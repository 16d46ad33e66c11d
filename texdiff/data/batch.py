"""The encoded dataset as the training loop sees it: batches of moments, latent masks and text embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from texdiff.data.dataset import Record
from texdiff.data.encoded import Encoded
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
    """n textures with their captions, encoded, by their index.

    `texels` [n] is N_b of each texture, the sum of its latent mask; `variance` [n, 2] how much its values vary inside
    the mask and outside, NaN where there is no texel; `content` a hash of all textures. `posterior` "mean" makes every
    σ 0. Raises InputError, naming them, for textures of which no latent texel counts.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoded: Encoded,
        *,
        texels: Tensor,
        variance: Tensor,
        content: str,
        posterior: str = "sample",
    ) -> None:
        self.records, self.encoded = records, encoded
        self.texels, self.variance, self.content = texels, variance, content
        self.posterior = posterior
        if len(lost := (texels == 0).nonzero()[:, 0].tolist()):
            raise InputError(
                f"{records[lost[0]].name}: none of its covered texels is left at latent size"
                + (f" (nor of {len(lost) - 1} others)" if len(lost) > 1 else "")
                + "; set mask.downsample to area or any, raise data.resolution, or take it out of the dataset"
            )
        ((mean, _, _),) = encoded.textures([0])
        self.latent_shape = (mean.shape[0], mean.shape[1], mean.shape[2])  # (C, h, w)
        self.cells = self.latent_shape[1] * self.latent_shape[2]

    def __len__(self) -> int:
        return len(self.records)

    def mask(self, index: int) -> Tensor:
        """Weights of a texture's latent texels, [1, h, w]."""
        return torch.tensor(self.encoded.mask(index))

    def batch(self, indices: Sequence[int], chance: Tensor | None = None, caption_dropout: float = 0.0) -> TextureBatch:
        """The textures `indices`, on the CPU.

        `chance` [B, 2], uniform in [0, 1), picks among a texture's captions and decides whether it is dropped;
        without it each texture comes with its first caption.
        """
        captions = []
        for row, index in enumerate(indices):
            choices = self.records[index].captions
            which, drop = (0.0, 1.0) if chance is None else chance[row].tolist()
            captions.append("" if drop < caption_dropout else choices[int(which * len(choices))])
        # Stacking copies, once: what the cache gives are views of its files.
        mean, std, mask = (
            torch.from_numpy(np.stack(part)) for part in zip(*self.encoded.textures(indices), strict=True)
        )
        return TextureBatch(
            names=tuple(self.records[index].name for index in indices),
            mean=mean,
            std=std if self.posterior == "sample" else torch.zeros_like(std),
            mask=mask,
            text=torch.from_numpy(np.stack(self.encoded.captions(captions))),
        )
