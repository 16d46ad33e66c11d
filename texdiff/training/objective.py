"""What the loss is made of beside the target's masked error, as the configuration says: the samples' weights, what
stands outside the mask, and the error in pixels."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from torch import Tensor

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.diffusion.loss import masked_error, sample_weights
from texdiff.diffusion.process import DDPM, rescale_zero_terminal_snr
from texdiff.errors import InputError
from texdiff.models.base import Base


class Objective:
    """The configured objective over a base's noise process. Raises InputError for a schedule that this base can't be
    trained on."""

    def __init__(self, config: TrainingConfig, base: Base) -> None:
        self.mask, self.snr_gamma = config.mask, config.noise.snr_gamma
        prediction_type: str = base.scheduler.config.prediction_type
        alphas_cumprod: Tensor = base.scheduler.alphas_cumprod
        if config.noise.rescale_betas_zero_snr:
            if prediction_type == "epsilon":
                raise InputError(
                    f"noise.rescale_betas_zero_snr: {base.source} predicts epsilon, from which nothing can be known "
                    "where there is noise alone; take a base that predicts v, or set it to false"
                )
            alphas_cumprod = rescale_zero_terminal_snr(alphas_cumprod)
        self.process = DDPM(alphas_cumprod, prediction_type)

    def weights(self, textures: LatentDataset, indices: Sequence[int], timesteps: Tensor) -> Tensor:
        """Weights [2, B] of the whole effective batch's samples in its loss: of the errors of latents and of pixels.

        Its samples are the textures `indices`, at `timesteps` [B]. Errors in pixels weigh min(SNR, 1): late in the
        process a prediction says next to nothing of the picture, and what it means there is 1/SNR times as far off.
        """
        latent = sample_weights(textures.texels[indices], self.mask.reduction)
        latent = latent * self.process.weights(timesteps, self.snr_gamma)
        pixel = self.mask.pixel_weight * sample_weights(textures.pixels[indices], self.mask.reduction)
        return torch.stack([latent, pixel * self.process.clean_weights(timesteps, 1.0)])


@torch.no_grad()
def base_prediction(unet: UNet2DConditionModel, noisy: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
    """What the U-Net predicts with its adapters switched off, [B, C, h, w]: the base model's own answer."""
    unet.disable_adapters()
    try:
        return unet(noisy, timesteps, text).sample
    finally:
        unet.enable_adapters()


class PixelError:
    """The masked error in pixels, through the frozen decoder, which stays in memory.

    Measured cost: see `mask.pixel_weight`.
    """

    def __init__(self, config: TrainingConfig, base: Base, objective: Objective, accelerator: Accelerator) -> None:
        self.process = objective.process
        self.vae: Any = base.vae.requires_grad_(False).to(accelerator.device)
        if config.run.gradient_checkpointing:
            self.vae.enable_gradient_checkpointing()
        self.scaling_factor = base.scaling_factor
        # Half of SD's decoders overflow in float16, so there they stay in float32.
        self.half = accelerator.mixed_precision == "bf16"

    def __call__(
        self, prediction: Tensor, noisy: Tensor, latents: Tensor, timesteps: Tensor, texels: Tensor | None
    ) -> Tensor:
        """E_b [B]: squared error, mean over the channels and summed over covered texels, of the picture that the
        prediction means, against the decoded latents'. Values of pixels are in [-1, 1].

        prediction, noisy, latents [B, C, h, w]; timesteps [B]; texels [B, 1, H, W], the masks at full resolution.
        """
        assert texels is not None, "the dataset was made without full masks"
        said = self.process.clean(prediction.float(), noisy, timesteps)
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=self.half):
            with torch.no_grad():
                picture = self.vae.decode(latents / self.scaling_factor).sample
            return masked_error(self.vae.decode(said / self.scaling_factor).sample, picture, texels)
