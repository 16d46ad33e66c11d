"""Held-out loss on fixed noise, and sample pictures."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DPMSolverMultistepScheduler
from tqdm import tqdm

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.records import Record
from texdiff.diffusion.draws import keyed_generator
from texdiff.diffusion.loss import masked_error, region_errors
from texdiff.models.base import Base
from texdiff.training.ema import Ema
from texdiff.training.export import assemble_pipeline
from texdiff.training.launch import weight_dtype
from texdiff.training.objective import Objective
from texdiff.training.run.run_folder import RunLog, error_figures
from texdiff.training.run.stop_signals import Stopped, StopSignals
from texdiff.training.samples import SamplePictures

TIMESTEPS = 8  # points of the grid; the loss is a smooth function of t, so more of them change little
TEXTURES = 64  # at most, so that validation stays short beside training
BAR_SECONDS = 2.0  # what is over sooner needs no bar


class Validation:
    """Looks at the model while it is trained, at its averaged weights where there are such: the main process does, and
    the others wait."""

    def __init__(
        self,
        config: TrainingConfig,
        base: Base,
        objective: Objective,
        unet: Any,
        ema: Ema,
        accelerator: Accelerator,
        log: RunLog,
        held_out: LatentDataset | None,
        records: Sequence[Record],
        run: Path,
        stop: StopSignals,
    ) -> None:
        self.config, self.base, self.objective, self.unet, self.ema = config, base, objective, unet, ema
        self.accelerator, self.log = accelerator, log
        self.held_out, self.stop = held_out, stop
        self.dtype = weight_dtype(accelerator)
        self.samples = SamplePictures(config, accelerator, run, held_out.records if held_out else records)

    def look(self, step: int) -> None:
        """Draw sample pictures and log held-out errors after `step` steps. A signal to stop breaks it off."""
        if self.accelerator.is_main_process:
            with contextlib.suppress(Stopped):
                self.pictures(step)
                self.loss(step)  # last: where its line is, all of it was done
        self.accelerator.wait_for_everyone()

    def is_missing(self, step: int) -> bool:
        """Whether any of what `look` leaves for `step` is not there."""
        lacks_loss = self.held_out is not None and step not in self.log.validated
        return lacks_loss or (self.config.validation.num_images > 0 and not self.samples.step_folder(step).is_dir())

    def loss(self, step: int) -> None:
        """Log the held-out masked loss and errors after `step` steps, where there are held-out textures."""
        if self.held_out:
            with self._evaluating(), self.stop.breaking_off():
                figures = held_out_errors(
                    self.unet,
                    self.held_out,
                    self.objective,
                    seed=self.config.run.seed,
                    scaling_factor=self.base.scaling_factor,
                    dtype=self.dtype,
                    batch_size=self.config.run.train_batch_size,
                )
            self.log.validation(step, figures)

    def pictures(self, step: int) -> None:
        """Draw the samples of RUN/samples/step-......../."""
        if self.config.validation.num_images:
            for part in (self.base.vae, self.base.text_encoder):
                part.to(self.accelerator.device)
            pipeline = assemble_pipeline(self.base, self.unet, self.config.noise.rescale_betas_zero_snr)
            pipeline.set_progress_bar_config(desc="sampling", leave=False)
            # Good pictures in 20-30 steps whatever sampler the base names; plain DDPM would need hundreds.
            pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
            with self._evaluating(), self.stop.breaking_off():
                self.samples.draw(pipeline, step)
            self.base.release("vae", "text_encoder")

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The U-Net without dropout or gradients, in the run's own precision, which is part of it since accelerate
        prepared it; VAE and text encoder stay in float32. Not compiled: that would take half a minute for a few passes,
        and variants of the blocks from training, which has few of them to spare."""
        self.unet.eval()
        try:
            with self.ema.averaged(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self.unet.train()


def held_out_errors(
    unet: Any,
    textures: LatentDataset,
    objective: Objective,
    *,
    seed: int,
    scaling_factor: float,
    dtype: torch.dtype,
    batch_size: int,
) -> dict[str, float | None]:
    """validation_loss, the masked MSE per covered latent cell, and error_inside, error_border and error_outside, over
    held-out textures and a fixed grid of timesteps.

    A cell counts by its covered share, whatever the settings of the training mask. Noise is keyed by texture and
    timestep and latents are the posterior's mean, so two values differ by the weights alone: from step to step, and
    between runs on one dataset. No pass holds more than `batch_size` samples, so what training has room for suffices.
    """
    device = next(unet.parameters()).device
    process = objective.process
    grid = process.grid(TIMESTEPS)
    timesteps = grid.to(device)
    parts = [slice(start, start + batch_size) for start in range(0, TIMESTEPS, batch_size)]
    error, errors = torch.zeros((), device=device), torch.zeros(2, 3, device=device)
    covered_cells = 0.0
    count = min(len(textures), TEXTURES)
    for index in tqdm(range(count), desc="validating", unit="texture", leave=False, delay=BAR_SECONDS):
        one = textures.batch([index]).to(device, dtype)
        draws = [
            torch.randn(one.mean.shape[1:], generator=keyed_generator(seed, "validation", index, int(t))) for t in grid
        ]
        noise = torch.stack(draws).to(device)  # [T, C, h, w]
        latents = (scaling_factor * one.mean).expand_as(noise)
        covered = one.covered.expand(TIMESTEPS, -1, -1, -1)
        noisy = process.add_noise(latents, noise, timesteps).to(dtype)
        target = process.target(latents, noise, timesteps)
        text = one.text.expand(TIMESTEPS, -1, -1)
        prediction = torch.cat([unet(noisy[part], timesteps[part], text[part]).sample for part in parts])
        error += masked_error(prediction, target, covered).sum()
        errors += region_errors(prediction, target, covered)
        covered_cells += TIMESTEPS * float(textures.sums["covered"][index])
    return {"validation_loss": error.item() / covered_cells, **error_figures(errors.flatten().tolist())}
