"""How the samples of an optimizer step are shared out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from texdiff.data.batch import TextureBatch
from texdiff.diffusion.draws import Draws, SampleKey
from texdiff.models.family import Conditioning


@dataclass(frozen=True)
class BatchPlan:
    """How an effective batch is cut into micro-batches, and this rank's part of each."""

    micro_batch_size: int
    """Samples of one rank in one forward pass."""
    accumulation_steps: int
    """Micro-batches of one optimizer step."""
    rank: int
    world: int
    """Number of ranks."""

    @property
    def effective_batch(self) -> int:
        """Samples of one optimizer step."""
        return self.micro_batch_size * self.accumulation_steps * self.world

    def __iter__(self) -> Iterator[tuple[slice, bool]]:
        """This rank's samples of each micro-batch, as a slice of the effective batch, and whether it is the last."""
        for number in range(self.accumulation_steps):
            start = (number * self.world + self.rank) * self.micro_batch_size
            yield slice(start, start + self.micro_batch_size), number == self.accumulation_steps - 1


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """B samples: what one rank works on in one forward pass."""

    step: int  # the optimizer step that it belongs to
    is_last: bool  # whether it is that step's last
    keys: list[SampleKey]
    textures: TextureBatch
    draws: Draws
    weights: Tensor  # [2, B] of the errors in latents and in pixels (Objective.weights)
    group: Tensor  # int64 [B] the source that each counts to in figures
    portions: list[float]  # of each source in the effective batch's loss, by its texels or samples
    coverage: float  # mean share of latent cells that count, over the effective batch

    @property
    def t(self) -> Tensor:
        """Times [B] of the noise process."""
        return self.draws.timesteps

    @property
    def conditioning(self) -> Conditioning:
        """What the denoiser is given beside noisy latents."""
        textures = self.textures
        return Conditioning(prompt=textures.prompt, layout=textures.layout, known=textures.known, sizes=textures.sizes)

    def to(self, device: torch.device, dtype: torch.dtype) -> "MicroBatch":
        """The same on `device`, embeddings as `dtype`, without waiting for the device."""
        textures, draws = self.textures.to(device, dtype), self.draws.to(device)
        weights, group = (part.to(device, non_blocking=True) for part in (self.weights, self.group))
        return replace(self, textures=textures, draws=draws, weights=weights, group=group)
