"""Held-out loss on fixed noise, and sample pictures."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.dataset import Record
from texdiff.diffusion.loss import masked_error
from texdiff.diffusion.noise import add_noise, keyed_generator, training_target
from texdiff.training.export import assemble_pipeline
from texdiff.training.launch import weight_dtype
from texdiff.training.models import Base
from texdiff.training.run_folder import RunLog
from texdiff.training.samples import SamplePictures

TIMESTEPS = 8  # points of the grid; the loss is a smooth function of t, so more of them change little
TEXTURES = 64  # at most, so that validation stays short beside training


class Validation:
    """Looks at the model while it is trained: the main process does, and the others wait."""

    def __init__(
        self,
        config: TrainingConfig,
        base: Base,
        unet: Any,
        accelerator: Accelerator,
        log: RunLog,
        held_out: LatentDataset | None,
        records: Sequence[Record],
        run: Path,
    ) -> None:
        self.config, self.base, self.unet, self.accelerator, self.log = config, base, unet, accelerator, log
        self.held_out = held_out
        self.dtype = weight_dtype(accelerator)
        self.samples = SamplePictures(config, accelerator, run, held_out.records if held_out else records)

    def loss(self, step: int) -> None:
        """Log the held-out masked loss after `step` steps, where there are held-out textures."""
        if self.held_out and self.accelerator.is_main_process:
            with self._evaluating():
                value = held_out_loss(
                    self.unet,
                    self.held_out,
                    seed=self.config.run.seed,
                    scheduler=self.base.scheduler,
                    scaling_factor=self.base.scaling_factor,
                    dtype=self.dtype,
                )
            self.log.validation(step, value)
        self.accelerator.wait_for_everyone()

    def pictures(self, step: int) -> None:
        """Draw the samples of RUN/samples/step-......../."""
        if self.config.validation.num_images and self.accelerator.is_main_process:
            for part in (self.base.vae, self.base.text_encoder):
                part.to(self.accelerator.device)
            pipeline = assemble_pipeline(self.base, self.unet)
            pipeline.set_progress_bar_config(desc="sampling", leave=False)
            # Good pictures in 20-30 steps whatever sampler the base names; plain DDPM would need hundreds.
            pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
            with self._evaluating():
                self.samples.draw(pipeline, step)
            self.base.release("vae", "text_encoder")
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The U-Net without dropout, gradients, or more than the run's own precision."""
        self.unet.eval()
        device = self.accelerator.device.type
        with torch.no_grad(), torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            yield
        self.unet.train()


def held_out_loss(
    unet: Any, textures: LatentDataset, *, seed: int, scheduler: Any, scaling_factor: float, dtype: torch.dtype
) -> float:
    """Masked MSE per covered latent texel, over held-out textures and a fixed grid of timesteps.

    Noise is keyed by texture and timestep and latents are the posterior's mean, so two values differ by the weights
    alone: from step to step, and between runs on one dataset.
    """
    device = next(unet.parameters()).device
    alphas, steps = scheduler.alphas_cumprod, scheduler.config.num_train_timesteps
    grid = torch.tensor([int((i + 0.5) * steps / TIMESTEPS) for i in range(TIMESTEPS)])
    error = texels = 0.0
    for index in range(min(len(textures), TEXTURES)):
        one = textures.batch([index]).to(device, dtype)
        draws = [
            torch.randn(one.mean.shape[1:], generator=keyed_generator(seed, "validation", index, int(t))) for t in grid
        ]
        noise = torch.stack(draws).to(device)  # [T, C, h, w]
        latents = (scaling_factor * one.mean).expand_as(noise)
        timesteps = grid.to(device)
        noisy = add_noise(latents, noise, timesteps, alphas)
        target = training_target(scheduler.config.prediction_type, latents, noise, timesteps, alphas)
        prediction = unet(noisy.to(dtype), timesteps, one.text.expand(TIMESTEPS, -1, -1)).sample
        error += masked_error(prediction, target, one.mask.expand(TIMESTEPS, -1, -1, -1)).sum().item()
        texels += TIMESTEPS * one.mask.sum().item()
    return error / texels
