"""What a step's loss is made of: weights of samples, targets under the mask and outside, and the error in pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.diffusion.loss import masked_error, sample_weights
from texdiff.models.family import Family
from texdiff.models.trainable import Trainable
from texdiff.training.batching import MicroBatch
from texdiff.training.parallel import Parallel


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a micro-batch's predictions are compared with, [B, C, h, w] each."""

    inside: Tensor  # under the mask: what the noise process asks for
    outside: Tensor  # outside: the same, or the base model's own prediction
    clean: Tensor  # the latents that were noised
    noisy: Tensor


class Objective:
    """The configured objective. A step's loss is the sum of `losses` over its micro-batches and the ranks."""

    def __init__(self, config: TrainingConfig, family: Family, trainable: Trainable, parallel: Parallel) -> None:
        self.mask, self.snr_gamma = config.mask, config.noise.snr_gamma
        self.family, self.trainable, self.dtype = family, trainable, parallel.dtype
        if config.mask.pixel_weight:
            family.load_decoder(parallel.device, config.run.gradient_checkpointing)

    def weights(self, textures: LatentDataset, views: Sequence[int], t: Tensor) -> Tensor:
        """Weights [2, B] of the samples of a whole effective batch in its loss: of the errors of latents and of pixels.

        Its samples are `views` of the textures, at times t [B]. Errors in pixels weigh min(SNR, 1): late in the process
        a prediction says next to nothing of the image, and what it implies there is 1/SNR times as far off.

        The loss weight of a sample's source is part of its w_b, as min-SNR's is: with reduction texel the loss stays
        Σ_b w_b E_b / Σ_b N_b, so that a source of loss weight 0.5 adds half the error that it would, over all texels.
        """
        of_source = textures.mixture.loss_weights[[view // textures.scales for view in views]]
        latent = sample_weights(textures.texels[views], self.mask.reduction)
        latent = latent * self.family.process.weights(t, self.snr_gamma) * of_source
        pixel = self.mask.pixel_weight * sample_weights(textures.pixels[views], self.mask.reduction)
        pixel = pixel * of_source
        return torch.stack([latent, pixel * self.family.process.clean_weights(t, 1.0)])

    def portions(self, textures: LatentDataset, views: Sequence[int]) -> list[float]:
        """The share that each of the mixture's groups has in what the loss of a whole effective batch is a mean over:
        its texels, or its samples."""
        texels = textures.texels[views]
        shares = sample_weights(texels, self.mask.reduction) * texels
        groups = textures.mixture.group_of[[view // textures.scales for view in views]]
        return textures.mixture.by_group(shares, groups).tolist()

    def targets(self, latents: Tensor, noisy: Tensor, batch: MicroBatch) -> Targets:
        """Of latents and noisy latents [B, C, h, w]."""
        inside = outside = self.family.process.target(latents, batch.draws.noise, batch.t)
        if self.mask.outside == "base_model":
            outside = self.trainable.frozen_prediction(noisy.to(self.dtype), batch.t, batch.conditioning)
        return Targets(inside=inside, outside=outside, clean=latents, noisy=noisy)

    def losses(self, prediction: Tensor, targets: Targets, batch: MicroBatch) -> Tensor:
        """What each sample adds to the step's loss, float32 [B], of predictions [B, C, h, w]."""
        error = masked_error(prediction, targets.inside, batch.textures.mask)
        error = error + masked_error(prediction, targets.outside, batch.textures.outside)
        latent_weight, pixel_weight = batch.weights
        losses = latent_weight * error
        if self.mask.pixel_weight:
            losses = losses + pixel_weight * self.pixel_errors(prediction, targets, batch)
        return losses

    def pixel_errors(self, prediction: Tensor, targets: Targets, batch: MicroBatch) -> Tensor:
        """E_b [B]: squared error, mean over the channels and summed over covered texels, of the image that the
        prediction implies, against the decoded latents'. Values of pixels are in [-1, 1].

        Measured cost: see `mask.pixel_weight`.
        """
        texels = batch.textures.texels
        assert texels is not None, "the dataset was made without full masks"
        implied = self.family.process.clean(prediction.float(), targets.noisy, batch.t)
        # Half of SD's decoders overflow in float16, so there they stay in float32.
        with torch.autocast(implied.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            with torch.no_grad():
                image = self.family.decode(targets.clean)
            return masked_error(self.family.decode(implied), image, texels)
