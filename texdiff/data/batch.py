"""The encoded dataset as the training loop sees it: batches of moments, latent masks and prompt embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from texdiff.data.cache.encodings import SUMS, Array, Cells, Encodings, is_packed, texel_weights
from texdiff.data.mixture import Mixture
from texdiff.data.record import Record
from texdiff.diffusion.crops import draw_places, draw_scales
from texdiff.diffusion.draws import SampleKey
from texdiff.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TextureBatch:
    """B textures."""

    names: tuple[str, ...]
    mean: Tensor  # [B, C, h, w] μ of the VAE's posterior, not scaled
    std: Tensor  # [B, C, h, w] σ
    mask: Tensor  # [B, 1, h, w] what each latent cell counts in the loss: the UV mask at latent size
    outside: Tensor  # [B, 1, h, w] what the error against the target outside the mask counts
    covered: Tensor  # [B, 1, h, w] mean weight of the cell's texels, 0-1: of a binary mask, the share that is covered
    texels: Tensor | None  # [B, 1, R, R] the UV mask itself, where it was asked for: bool, or float weights
    layout: Tensor | None  # float32 [B, 3, R, R] in [0, 1], 0 in the void: the map of the mesh, where it was asked for
    prompt: dict[str, Tensor]  # [B, ...] each: what the family's encoders make of the captions, by name
    known: Tensor | None = None  # float32 [B, 1 + C, h, w] for an inpainting base: see texdiff.data.cache.known
    even: Tensor | None = None  # [B, 1, h, w], of windows: what their cells weigh more, being shown less often
    sizes: Tensor | None = None  # int64 [B, 6], of windows, in pixels: `Conditioning.sizes`

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextureBatch":
        """The same batch on `device`; only the embeddings take `dtype`, the loss needs the rest exact."""
        return TextureBatch(
            names=self.names,
            mean=self.mean.to(device, non_blocking=True),
            std=self.std.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            outside=self.outside.to(device, non_blocking=True),
            covered=self.covered.to(device, non_blocking=True),
            texels=None if self.texels is None else self.texels.to(device, non_blocking=True),
            layout=None if self.layout is None else self.layout.to(device, non_blocking=True),
            even=None if self.even is None else self.even.to(device, non_blocking=True),
            sizes=None if self.sizes is None else self.sizes.to(device, non_blocking=True),
            # In one step it would wait for the device.
            prompt={name: t.to(device, non_blocking=True).to(dtype) for name, t in self.prompt.items()},
            known=None if self.known is None else self.known.to(device, non_blocking=True),
        )


class LatentDataset:
    """n textures with their captions, encoded, by their index; or n views of n / scales textures, one after the other,
    where visits get windows of atlases at one of `scales` sizes.

    `sums` [n, 5] are each texture's sums over its latent cells (`encoded.SUMS`), of which `texels` [n] is N_b, what
    they count in all; of windows, `shown` [n, 3] is what one of them counts on average: target, outside and covered
    cells. That mean is their N_b, so that a cell weighs in the loss what it does whatever else its window shows.
    `variation` [n, 2] how much its values vary inside the mask and outside, NaN where there is no
    texel; `kinds` [n] how the masks' files were read (`MaskKind`); `mixture` how often each is visited; `content` a
    hash of all textures. `posterior` "mean" makes every σ 0; with `full_masks` batches carry the masks at full
    resolution, and with `maps` "mask" where they are not 0 as the mesh's map. Prompts are repeated to one length,
    `prompt_repeats` times that of the empty one, whatever else is in a batch. Each is hidden from an inpainting
    base in one of `variants` ways, of which other bases have none. Raises InputError, naming them, for textures of
    whose mask no latent cell is left.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoded: Encodings,
        *,
        sums: Tensor,
        variation: Tensor,
        kinds: NDArray[np.uint8],
        mixture: Mixture,
        content: str,
        shown: Tensor | None = None,
        posterior: str = "sample",
        full_masks: bool = False,
        prompt_repeats: int = 1,
        maps: str = "none",
        variants: int = 0,
    ) -> None:
        self.records, self.encoded = records, encoded
        self.sums = {name: sums[:, column] for column, name in enumerate(SUMS)}
        self.scales = len(sums) // len(records)
        self.has_windows = shown is not None
        counted = self.sums if shown is None else dict(zip(Cells._fields, shown.float().T, strict=True))
        self.texels = counted["target"] + counted["outside"]
        self.variation, self.kinds, self.mixture, self.content = variation, kinds, mixture, content
        self.posterior, self.full_masks, self.maps, self.variants = posterior, full_masks, maps, variants
        if len(lost := (self.sums["target"] == 0).nonzero()[:, 0].tolist()):
            raise InputError(
                f"{records[lost[0] // self.scales].name}: none of its covered texels is left at latent size"
                + (f" (nor of {len(lost) - 1} others)" if len(lost) > 1 else "")
                + "; set mask.downsample to area or any, do not shrink it by mask.dilation, raise data.resolution, or "
                "take it out of the dataset"
            )
        empty = encoded.captions([""])[0] if prompt_repeats > 1 else {}
        self.prompt_length = {name: prompt_repeats * len(array) for name, array in empty.items() if array.ndim > 1}
        first = encoded.textures([0])[0]
        channels, height, width = first.mean.shape
        self.latent_shape = (channels, height, width)
        side = len(first.mask) // height
        self.pixels = counted["covered"] * side**2  # [n] texels of the masks themselves, by their weight
        self._target = counted["target"]

    def __len__(self) -> int:
        return len(self.records)

    def coverage(self, indices: Sequence[int]) -> float:
        """Mean share of latent cells that the masks leave of these textures, or of windows of them, 0-1."""
        return float(self._target[indices].mean()) / (self.latent_shape[1] * self.latent_shape[2])

    def cells(self, index: int) -> Cells:
        """A texture's latent cells."""
        return self.encoded.cells(index)

    def views(self, seed: int, keys: Sequence[SampleKey]) -> list[int]:
        """What each of the samples is of: its texture, or the texture at one of its scales."""
        scales = draw_scales(seed, keys, self.scales)
        return [index * self.scales + scale for (_, index), scale in zip(keys, scales, strict=True)]

    def seen(
        self,
        seed: int,
        keys: Sequence[SampleKey],
        chance: Tensor | None = None,
        caption_dropout: float = 0.0,
        hiding: Tensor | None = None,
    ) -> TextureBatch:
        """What the samples are given of their textures, as `batch` says."""
        places = draw_places(seed, keys, self.scales) if self.has_windows else None
        return self.batch(self.views(seed, keys), chance, caption_dropout, hiding, places)

    def batch(
        self,
        indices: Sequence[int],
        chance: Tensor | None = None,
        caption_dropout: float = 0.0,
        hiding: Tensor | None = None,
        places: Tensor | None = None,
    ) -> TextureBatch:
        """The textures `indices`, on the CPU, or their windows at `places` [B, 2] in [0, 1).

        `chance` [B, 2], uniform in [0, 1), picks among a texture's captions and decides whether it is dropped;
        without it each texture comes with its first caption. `hiding` [B], uniform in [0, 1), picks among the variants
        in which it is hidden, of which the first is taken without it.
        """
        captions = []
        for row, index in enumerate(indices):
            texts = self.records[index // self.scales].captions
            which, drop = (0.0, 1.0) if chance is None else chance[row].tolist()
            captions.append("" if drop < caption_dropout else texts[int(which * len(texts))])
        prompts = self.encoded.captions(captions)
        # Stacking copies, once: what the cache gives are views of its files.
        textures = self.encoded.textures(indices, None if places is None else places.numpy())
        mean, std = (_stack(parts) for parts in zip(*((t.mean, t.std) for t in textures), strict=True))
        target, outside, covered = (_stack(parts) for parts in zip(*(t.cells for t in textures), strict=True))
        texels = layout = even = sizes = None
        if self.has_windows:
            even = _stack([t.even for t in textures if t.even is not None])
            places_of = [(*t.window, len(t.mask)) for t in textures if t.window is not None]
            sizes = torch.tensor([[size, size, top, left, side, side] for size, top, left, side in places_of])
        if self.full_masks or self.maps == "mask":
            texels = _stack([texel_weights(t.mask)[None] for t in textures])
            texels = texels.bool() if all(is_packed(t.mask) for t in textures) else texels
        if self.maps == "mask":
            assert texels is not None
            layout = (texels > 0).float().expand(-1, 3, -1, -1)
        elif layouts := [np.moveaxis(t.layout, -1, 0) for t in textures if t.layout is not None]:
            layout = _stack(layouts).float() / 65535
        known = None
        if self.variants:
            picks = [0.0] * len(indices) if hiding is None else hiding.tolist()
            choices = [(index, int(pick * self.variants)) for index, pick in zip(indices, picks, strict=True)]
            known = _stack(self.encoded.known(choices))
        if texels is not None and even is not None:
            texels = texels * F.interpolate(even, texels.shape[2:], mode="nearest")
        return TextureBatch(
            names=tuple(self.records[index // self.scales].name for index in indices),
            mean=mean,
            std=std if self.posterior == "sample" else torch.zeros_like(std),
            mask=target,
            outside=outside,
            covered=covered,
            texels=texels if self.full_masks else None,
            layout=layout,
            even=even,
            sizes=sizes,
            prompt={name: _stack([self._repeated(name, entry[name]) for entry in prompts]) for name in prompts[0]},
            known=known,
        )

    def _repeated(self, name: str, array: Array) -> Array:
        rows = self.prompt_length.get(name, len(array))
        return array if rows == len(array) else np.concatenate([array] * (rows // len(array)))


def _stack(arrays: Sequence[Array]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
