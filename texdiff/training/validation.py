"""Held-out loss on fixed noise, and sample images."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from tqdm import tqdm

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.record import Record
from texdiff.diffusion.draws import keyed_generator
from texdiff.diffusion.loss import masked_error, region_errors
from texdiff.models.family import Conditioning, Family
from texdiff.models.stable_diffusion import quick_sampler
from texdiff.models.trainable import Trainable
from texdiff.training.ema import Ema
from texdiff.training.parallel import Parallel
from texdiff.training.run.metrics_log import MetricsLog, error_figures
from texdiff.training.run.stop_signals import Stopped, StopSignals
from texdiff.training.samples import SampleImages
from texdiff.training.voids import void_colours

TIMES = 8  # points of the grid; the loss is a smooth function of t, so more of them change little
TEXTURES = 64  # at most, so that validation stays short beside training
BAR_SECONDS = 2.0  # what is over sooner needs no bar


class Validation:
    """Evaluates the model while it is trained, with its averaged weights where there are such: the main process does,
    and the others wait."""

    def __init__(
        self,
        config: TrainingConfig,
        family: Family,
        trainable: Trainable,
        ema: Ema,
        log: MetricsLog,
        held_out: LatentDataset | None,
        records: Sequence[Record],
        stop: StopSignals,
    ) -> None:
        self.config, self.family, self.trainable, self.ema = config, family, trainable, ema
        self.parallel, self.log = log.parallel, log
        self.held_out, self.stop = held_out, stop
        self.samples = SampleImages(config, log, held_out.records if held_out else records)

    def run(self, step: int) -> None:
        """Draw sample images and log held-out errors after `step` steps, where they are not there already. A signal to
        stop breaks it off. Every rank must call it."""
        self.log.flush()
        if self.parallel.is_main and self._is_missing(step):
            with contextlib.suppress(Stopped):
                self.images(step)
                self.figures(step)  # last: where its line is, all of it was done
        self.parallel.wait()

    def _is_missing(self, step: int) -> bool:
        """Whether any of what `run` leaves for `step` is not there, as rank 0 sees it."""
        draws = self.config.validation.num_images > 0
        has_figures = self.held_out is not None or (draws and len(void_colours(self.log.run)) > 0)
        lacks_line = has_figures and step not in self.log.validated
        return lacks_line or (draws and not self.log.run.sample_folder(step).is_dir())

    def figures(self, step: int) -> None:
        """Log the held-out masked loss and errors after `step` steps, where there are held-out textures, and how much
        void there is on the samples' surface."""
        found: dict[str, float | None] = {}
        with self._evaluating(), self.stop.breaking_off():
            if self.held_out:
                seed, size = self.config.run.seed, self.config.run.train_batch_size
                found |= held_out_errors(self.trainable, self.held_out, seed, self.parallel.dtype, size)
            if self.config.validation.num_images:
                found |= self.samples.void(step)
        if found:
            self.log.validation(step, found)

    def images(self, step: int) -> None:
        """Draw the samples of RUN/samples/step-......../. The encoders are on the device for that alone."""
        if self.config.validation.num_images:
            denoiser = self.trainable.denoiser
            with self.family.encoders_on(self.parallel.device), self._evaluating(), self.stop.breaking_off():
                pipeline = self.family.pipeline(denoiser)
                pipeline.set_progress_bar_config(desc="sampling", leave=False)
                pipeline.scheduler = quick_sampler(pipeline.scheduler)  # whatever the base names: DDPM needs hundreds
                with _under_autocast(denoiser, self.parallel):
                    self.samples.draw(pipeline, step)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The model without dropout or gradients. Not compiled: that would take half a minute for a few passes, and
        variants of the blocks from training, which has few of them to spare."""
        self.trainable.eval()
        try:
            with self.ema.averaged(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            self.trainable.train()


@contextmanager
def _under_autocast(denoiser: nn.Module, parallel: Parallel) -> Iterator[None]:
    """The denoiser in the run's own precision, as accelerate has it in the module that it wraps; what a pipeline runs
    around it stays in its own."""
    own = denoiser.__dict__.get("forward")  # recorded graphs put theirs there
    denoiser.forward = convert_outputs_to_fp32(parallel.accelerator.autocast()(denoiser.forward))
    try:
        yield
    finally:
        if own is None:
            del denoiser.forward
        else:
            denoiser.forward = own


def held_out_errors(
    trainable: Trainable, textures: LatentDataset, seed: int, dtype: torch.dtype, batch_size: int
) -> dict[str, float | None]:
    """validation_loss, the masked MSE per covered latent cell, and error_inside, error_border and error_outside, over
    held-out textures and a fixed grid of times.

    A cell counts by its covered share, whatever the settings of the training mask. Noise is keyed by texture and time
    and latents are the posterior's mean, so two values differ by the weights alone: from step to step, and between
    runs on one dataset. No pass holds more than `batch_size` samples, so what training has room for suffices.
    """
    device = next(trainable.parameters()).device
    family, process = trainable.family, trainable.family.process
    grid = process.grid(TIMES)
    t = grid.to(device)
    parts = [slice(start, start + batch_size) for start in range(0, TIMES, batch_size)]
    error, errors = torch.zeros((), device=device), torch.zeros(2, 3, device=device)
    covered_cells = 0.0
    for index in tqdm(
        range(min(len(textures), TEXTURES)), desc="validating", unit="texture", leave=False, delay=BAR_SECONDS
    ):
        texture = textures.batch([index]).to(device, dtype)
        shape = texture.mean.shape[1:]
        draws = [torch.randn(shape, generator=keyed_generator(seed, "validation", index, int(time))) for time in grid]
        noise = torch.stack(draws).to(device)  # [T, C, h, w]
        latents = family.latents(texture.mean).expand_as(noise)
        covered = texture.covered.expand(TIMES, -1, -1, -1)
        noisy = process.add_noise(latents, noise, t).to(dtype)
        target = process.target(latents, noise, t)
        conditioning = Conditioning(prompt=texture.prompt).expand(TIMES)
        prediction = torch.cat([trainable(noisy[part], t[part], conditioning[part]) for part in parts])
        error += masked_error(prediction, target, covered).sum()
        errors += region_errors(prediction, target, covered)
        covered_cells += TIMES * float(textures.sums["covered"][index])
    return {"validation_loss": error.item() / covered_cells, **error_figures(errors.flatten().tolist())}
