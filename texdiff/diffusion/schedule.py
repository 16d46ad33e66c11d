"""What follows from a noise schedule ᾱ [T] alone: signal to noise, loss weights, a schedule that ends in noise."""

import torch
from torch import Tensor


def snr(timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """SNR = ᾱ/(1−ᾱ) of timesteps [B], float64 [B] on the CPU; 0 at the end of a zero-terminal schedule."""
    # float64: for ᾱ near 1 the quotient loses half its digits in float32.
    alpha = alphas_cumprod.double().cpu()[timesteps.cpu()]
    return alpha / (1 - alpha)


def snr_weights(prediction_type: str, timesteps: Tensor, alphas_cumprod: Tensor, gamma: float) -> Tensor:
    """Min-SNR-γ loss weights w_b float32 [B] (Hang et al. 2023): min(SNR, γ) for a z target.

    An ε target already carries 1/SNR of the z loss, a v target 1/(SNR + 1), so theirs is that divided by it.
    """
    ratio = snr(timesteps, alphas_cumprod)
    clipped = ratio.clamp(max=gamma)
    if prediction_type == "epsilon":
        # min(SNR, γ)/SNR, written so that SNR = 0 (a zero-terminal schedule) gives 1 and not 0/0.
        clipped = torch.where(ratio <= gamma, torch.ones_like(ratio), gamma / ratio)
    elif prediction_type == "v_prediction":
        clipped = clipped / (ratio + 1)
    return clipped.float()


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule ᾱ [T], shifted and scaled so that its last step is noise alone (Lin et al. 2023, Algorithm 1).

    √ᾱ goes linearly from what it was at the first step to 0 at the last. A schedule that ends at 0 stays as it is.
    """
    root = alphas_cumprod.double().sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square().to(alphas_cumprod.dtype)
