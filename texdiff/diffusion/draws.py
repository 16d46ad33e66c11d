"""Random draws keyed by sample.

Every draw of a sample comes from a generator keyed by (seed, epoch, index, purpose) on the CPU. So a sample's
noise does not depend on the device, the number of ranks, the other samples of its batch, or on whether the run
was stopped and resumed; and a new kind of draw does not shift the others.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SampleKey = tuple[int, int]
"""The epoch, and the index of the sample in the dataset."""


def keyed_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator whose stream is a function of `seed` and `key` alone."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def seed_layers(seed: int, keys: Sequence[SampleKey]) -> None:
    """Key torch's global generators, from which dropout layers draw, by the samples of this micro-batch."""
    torch.manual_seed(keyed_generator(seed, *(part for key in keys for part in key), "layers").initial_seed())


def draw_timesteps(
    seed: int, keys: Sequence[SampleKey], num_train_timesteps: int, sampling: str = "uniform", step: int = 0
) -> Tensor:
    """Timesteps int64 [B] of the whole effective batch `keys` of optimizer step `step`, in [0, num_train_timesteps).

    uniform     each sample's own, keyed by it
    stratified  one from each of B equal parts of the range: which part a sample gets is a permutation keyed by
                (seed, step), where in it is keyed by the sample. Each t is as likely as with uniform, but a batch
                covers the range evenly, so its loss and gradient vary less.

    Raises ValueError for another sampling.
    """
    own = [keyed_generator(seed, epoch, index, "timestep") for epoch, index in keys]
    if sampling == "uniform":
        return torch.stack([torch.randint(num_train_timesteps, (), generator=generator) for generator in own])
    if sampling == "stratified":
        strata = torch.randperm(len(keys), generator=keyed_generator(seed, step, "strata"))
        within = torch.stack([torch.rand((), generator=generator, dtype=torch.float64) for generator in own])
        timesteps = ((strata + within) * (num_train_timesteps / len(keys))).long()
        return timesteps.clamp(max=num_train_timesteps - 1)  # a product that was rounded up
    raise ValueError(f"sampling {sampling!r} is neither uniform nor stratified")


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What chance decides for a batch of B samples, on the CPU."""

    posterior: Tensor  # [B, C, h, w] normal; z = scale · (μ + σ · posterior)
    noise: Tensor  # [B, C, h, w] normal; the ε of the forward process
    perturbation: Tensor | None  # [B, C, h, w] what is added to ε in the forward process, but is not in the target
    timesteps: Tensor  # [B] int64
    caption: Tensor  # [B, 2] uniform in [0, 1): which caption, and whether it is dropped
    layout: Tensor  # [B] uniform in [0, 1): whether the map of the mesh is dropped
    hiding: Tensor  # [B] uniform in [0, 1): in which way the texture is hidden from an inpainting base

    @property
    def added(self) -> Tensor:
        """The noise [B, C, h, w] that is added to the latents."""
        return self.noise if self.perturbation is None else self.noise + self.perturbation

    def to(self, device: torch.device) -> "Draws":
        """The same draws on `device`."""
        return Draws(
            posterior=self.posterior.to(device, non_blocking=True),
            noise=self.noise.to(device, non_blocking=True),
            perturbation=None if self.perturbation is None else self.perturbation.to(device, non_blocking=True),
            timesteps=self.timesteps.to(device, non_blocking=True),
            caption=self.caption,
            layout=self.layout,
            hiding=self.hiding,
        )


def draw(
    seed: int,
    keys: Sequence[SampleKey],
    shape: tuple[int, int, int],
    timesteps: Tensor,
    offset: float = 0.0,
    input_perturbation: float = 0.0,
) -> Draws:
    """The draws of the samples `keys`, with their `timesteps` [B]; latents of one sample have `shape` (C, h, w).

    `offset` adds that much noise common to a whole channel of a sample (N. Guttenberg, "Diffusion with offset
    noise", 2023). `input_perturbation` adds that much fresh noise to what the model sees, not to its target (Ning
    et al. 2023).
    """
    posterior, noise, perturbation, caption, layout, hiding = [], [], [], [], [], []
    for epoch, index in keys:
        posterior.append(torch.randn(shape, generator=keyed_generator(seed, epoch, index, "posterior")))
        noise.append(torch.randn(shape, generator=keyed_generator(seed, epoch, index, "noise")))
        if offset:
            common = torch.randn((shape[0], 1, 1), generator=keyed_generator(seed, epoch, index, "offset"))
            noise[-1] += offset * common
        if input_perturbation:
            fresh = torch.randn(shape, generator=keyed_generator(seed, epoch, index, "perturbation"))
            perturbation.append(input_perturbation * fresh)
        caption.append(torch.rand(2, generator=keyed_generator(seed, epoch, index, "caption")))
        layout.append(torch.rand((), generator=keyed_generator(seed, epoch, index, "layout")))
        hiding.append(torch.rand((), generator=keyed_generator(seed, epoch, index, "hiding")))
    return Draws(
        posterior=torch.stack(posterior),
        noise=torch.stack(noise),
        perturbation=torch.stack(perturbation) if perturbation else None,
        timesteps=timesteps,
        caption=torch.stack(caption),
        layout=torch.stack(layout),
        hiding=torch.stack(hiding),
    )
