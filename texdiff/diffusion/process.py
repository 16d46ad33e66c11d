"""Noise processes: how latents become noise, what a model predicts of it, and what that prediction is worth."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from texdiff.diffusion.draws import SampleKey, draw_timesteps


class Process(Protocol):
    """The forward process that a model family is trained on. Latents z, noise ε and predictions are [B, C, h, w];
    times t are [B]."""

    prediction_type: str
    """What the model predicts, in diffusers' words."""

    def times(self, seed: int, keys: Sequence[SampleKey], sampling: str, step: int) -> Tensor:
        """Keyed times [B] of the samples `keys`, the effective batch of optimizer step `step`."""
        ...

    def grid(self, count: int) -> Tensor:
        """Times [count] that are spread evenly, for validation."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The noisy latents z_t."""
        ...

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model should predict for z_t."""
        ...

    def clean(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """ẑ_0: the clean latents that a prediction for z_t implies."""
        ...

    def weights(self, t: Tensor, gamma: float | None) -> Tensor:
        """Weights float32 [B] of the squared errors of predictions; 1 where `gamma` is None."""
        ...

    def clean_weights(self, t: Tensor, gamma: float) -> Tensor:
        """Weights float32 [B] of the squared errors of the clean latents that predictions imply."""
        ...


class DDPM:
    """z_t = √ᾱ_t z + √(1−ᾱ_t) ε over T discrete timesteps (Ho et al. 2020, eq. 4).

    `alphas_cumprod` is ᾱ [T]; the model predicts ε (`epsilon`), v = √ᾱ_t ε − √(1−ᾱ_t) z (`v_prediction`, Salimans & Ho
    2022) or z (`sample`). Raises ValueError for another `prediction_type`.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: str) -> None:
        if prediction_type not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(f"prediction_type {prediction_type!r} is none of epsilon, v_prediction, sample")
        self.alphas_cumprod, self.prediction_type = alphas_cumprod, prediction_type
        self._on: dict[torch.device, Tensor] = {}

    def times(self, seed: int, keys: Sequence[SampleKey], sampling: str, step: int) -> Tensor:
        return draw_timesteps(seed, keys, len(self.alphas_cumprod), sampling, step)

    def grid(self, count: int) -> Tensor:
        return torch.tensor([int((i + 0.5) * len(self.alphas_cumprod) / count) for i in range(count)])

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        alpha = self._alpha(t, latents)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        alpha = self._alpha(t, latents)
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * latents

    def clean(self, prediction: Tensor, noisy: Tensor, t: Tensor) -> Tensor:
        """As `Process.clean`. Where ᾱ_t is 0 the noisy latents hold nothing of z, and a predicted ε says nothing about
        it: what is returned is finite, and its weight min(SNR, ·) is 0."""
        alpha = self._alpha(t, noisy)
        if self.prediction_type == "epsilon":
            return (noisy - (1 - alpha).sqrt() * prediction) / alpha.sqrt().clamp(min=1e-4)
        if self.prediction_type == "sample":
            return prediction
        return alpha.sqrt() * noisy - (1 - alpha).sqrt() * prediction

    def weights(self, t: Tensor, gamma: float | None) -> Tensor:
        """Min-SNR-γ (Hang et al. 2023): min(SNR, γ) for a z target. An ε target already carries 1/SNR of the z loss,
        a v target 1/(SNR + 1), so theirs is that divided by it."""
        if gamma is None:
            return torch.ones(len(t))
        ratio = self.snr(t)
        clipped = ratio.clamp(max=gamma)
        if self.prediction_type == "epsilon":
            # min(SNR, γ)/SNR, written so that SNR = 0 (a zero-terminal schedule) gives 1 and not 0/0.
            clipped = torch.where(ratio <= gamma, torch.ones_like(ratio), gamma / ratio)
        elif self.prediction_type == "v_prediction":
            clipped = clipped / (ratio + 1)
        return clipped.float()

    def clean_weights(self, t: Tensor, gamma: float) -> Tensor:
        """min(SNR, γ)."""
        return self.snr(t).clamp(max=gamma).float()

    def snr(self, t: Tensor) -> Tensor:
        """SNR = ᾱ/(1−ᾱ) of timesteps [B], float64 [B] on the CPU; 0 at the end of a zero-terminal schedule."""
        # float64: for ᾱ near 1 the quotient loses half its digits in float32.
        alpha = self.alphas_cumprod.double().cpu()[t.cpu()]
        return alpha / (1 - alpha)

    def _alpha(self, t: Tensor, like: Tensor) -> Tensor:
        """ᾱ_t [B, 1, 1, 1]. The schedule is copied to each device once, since copying to a GPU waits for it."""
        if like.device not in self._on:
            self._on[like.device] = self.alphas_cumprod.to(like.device)
        return self._on[like.device][t].to(like.dtype).view(-1, 1, 1, 1)


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule ᾱ [T], shifted and scaled so that its last step is noise alone (Lin et al. 2023, Algorithm 1).

    √ᾱ goes linearly from what it was at the first step to 0 at the last. A schedule that ends at 0 stays as it is.
    """
    root = alphas_cumprod.double().sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square().to(alphas_cumprod.dtype)
