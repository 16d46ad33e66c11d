"""Random draws keyed by sample, and the forward process of diffusion.

Every draw of a sample comes from a generator keyed by (seed, epoch, index, purpose) on the CPU. So a sample's
noise does not depend on the device, the number of ranks, the other samples of its batch, or on whether the run
was stopped and resumed; and a new kind of draw does not shift the others.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SampleKey = tuple[int, int]  # (epoch, index of the sample in the dataset)


def keyed_generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator whose stream is a function of `seed` and `key` alone."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def sample_keys(seed: int, start: int, count: int, dataset_size: int) -> list[SampleKey]:
    """Samples number `start` to `start + count` of the endless stream of epochs, each a permutation of the dataset.

    The stream does not stop at an epoch's end, so no batch is ever short and progress is one number.
    """
    keys: list[SampleKey] = []
    position, end = start, start + count
    while position < end:
        epoch, offset = divmod(position, dataset_size)
        order = torch.randperm(dataset_size, generator=keyed_generator(seed, epoch, "order"))
        taken = order[offset : offset + end - position].tolist()
        keys += [(epoch, index) for index in taken]
        position += len(taken)
    return keys


def seed_layers(seed: int, keys: Sequence[SampleKey]) -> None:
    """Key torch's global generators, from which dropout layers draw, by the samples of this pass."""
    torch.manual_seed(keyed_generator(seed, *(part for key in keys for part in key), "layers").initial_seed())


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What chance decides for a batch of B samples, on the CPU."""

    posterior: Tensor  # [B, C, h, w] normal; z = scale · (μ + σ · posterior)
    noise: Tensor  # [B, C, h, w] normal; the ε of the forward process
    timesteps: Tensor  # [B] int64, uniform in [0, num_train_timesteps)
    caption: Tensor  # [B, 2] uniform in [0, 1): which caption, and whether it is dropped

    def to(self, device: torch.device) -> "Draws":
        """The same draws on `device`."""
        return Draws(
            posterior=self.posterior.to(device, non_blocking=True),
            noise=self.noise.to(device, non_blocking=True),
            timesteps=self.timesteps.to(device, non_blocking=True),
            caption=self.caption,
        )


def draw(
    seed: int, keys: Sequence[SampleKey], shape: tuple[int, int, int], num_train_timesteps: int, offset: float = 0.0
) -> Draws:
    """The draws of the samples `keys`; latents of one sample have `shape` (C, h, w).

    `offset` adds that much noise common to a whole channel of a sample (N. Guttenberg, "Diffusion with offset
    noise", 2023).
    """
    posterior, noise, timesteps, caption = [], [], [], []
    for epoch, index in keys:
        posterior.append(torch.randn(shape, generator=keyed_generator(seed, epoch, index, "posterior")))
        noise.append(torch.randn(shape, generator=keyed_generator(seed, epoch, index, "noise")))
        if offset:
            common = torch.randn((shape[0], 1, 1), generator=keyed_generator(seed, epoch, index, "offset"))
            noise[-1] += offset * common
        steps = keyed_generator(seed, epoch, index, "timestep")
        timesteps.append(torch.randint(num_train_timesteps, (), generator=steps))
        caption.append(torch.rand(2, generator=keyed_generator(seed, epoch, index, "caption")))
    return Draws(
        posterior=torch.stack(posterior),
        noise=torch.stack(noise),
        timesteps=torch.stack(timesteps),
        caption=torch.stack(caption),
    )


def add_noise(latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """√ᾱ_t z + √(1−ᾱ_t) ε (Ho et al. 2020, eq. 4); [B, C, h, w], timesteps [B], alphas_cumprod ᾱ [T]."""
    alpha = alphas_cumprod.to(latents.device)[timesteps].to(latents.dtype).view(-1, 1, 1, 1)
    return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise


def training_target(
    prediction_type: str, latents: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """What the U-Net is to predict, [B, C, h, w]: ε, or v = √ᾱ_t ε − √(1−ᾱ_t) z (Salimans & Ho 2022), or z."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return latents
    if prediction_type == "v_prediction":
        alpha = alphas_cumprod.to(latents.device)[timesteps].to(latents.dtype).view(-1, 1, 1, 1)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    raise ValueError(f"prediction_type {prediction_type!r} is none of epsilon, v_prediction, sample")


def snr_weights(prediction_type: str, timesteps: Tensor, alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """Min-SNR-γ loss weights w_b [B] (Hang et al. 2023): with SNR = ᾱ/(1−ᾱ), min(SNR, γ) for a z target.

    An ε target already carries 1/SNR of the z loss, a v target 1/(SNR + 1), so theirs is that divided by it.
    """
    # float64: for ᾱ near 1 the quotient loses half its digits in float32.
    alpha = alphas_cumprod.double().cpu()[timesteps.cpu()]
    snr = alpha / (1 - alpha)
    clipped = snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        # min(SNR, γ)/SNR, written so that SNR = 0 (a zero-terminal schedule) gives 1 and not 0/0.
        clipped = torch.where(snr <= gamma, torch.ones_like(snr), gamma / snr)
    elif prediction_type == "v_prediction":
        clipped = clipped / (snr + 1)
    return clipped.float()
