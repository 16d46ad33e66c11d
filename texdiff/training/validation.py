"""Held-out loss on fixed noise, what a layout net makes of it, and sample images.

Layout gain: the error with the map of another mesh minus that with the texture's own, noise and times being the same.
A net that does not hear its map has none.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from tqdm import tqdm

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.record import Record
from texdiff.diffusion.draws import SampleKey, keyed_generator
from texdiff.diffusion.loss import masked_error, region_errors
from texdiff.models.family import Conditioning, Family
from texdiff.models.stable_diffusion import quick_sampler
from texdiff.models.trainable import Trainable
from texdiff.training.ema import Ema
from texdiff.training.parallel import Parallel
from texdiff.training.run.best import best_step, without_improvement
from texdiff.training.run.export import Export
from texdiff.training.run.metrics_log import MetricsLog, error_figures
from texdiff.training.run.stop_signals import Stopped, StopSignals
from texdiff.training.samples import SampleImages
from texdiff.training.voids import void_colours

TIMES = 8  # points of the grid; the loss is a smooth function of t, so more of them change little
TEXTURES = 64  # at most, so that validation stays short beside training
WINDOWS = 4  # of a texture at each of its scales, where it is cut to windows; of more than TEXTURES in all fewer
BAR_SECONDS = 2.0  # what is over sooner needs no bar

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""From noisy latents [B, C, h, w], times [B] and what else the model is given to its prediction [B, C, h, w]."""


class Validation:
    """Evaluates the model while it is trained, with its averaged weights where there are such: the main process does,
    and the others wait; where weights are sharded they make its passes with it."""

    def __init__(
        self,
        config: TrainingConfig,
        family: Family,
        trainable: Trainable,
        ema: Ema,
        export: Export,
        log: MetricsLog,
        held_out: LatentDataset | None,
        records: Sequence[Record],
        stop: StopSignals,
    ) -> None:
        self.config, self.family, self.trainable, self.ema = config, family, trainable, ema
        self.parallel, self.log, self.export = log.parallel, log, export
        self._stalled = False
        self.held_out, self.stop = held_out, stop
        self.samples = SampleImages(config, log, held_out.records if held_out else records, family.hiding)

    def run(self, step: int) -> None:
        """Draw sample images and log held-out errors after `step` steps, where they are not there already. A signal to
        stop breaks it off. Every rank must call it."""
        self.log.flush()
        if self._with_others(lambda: self._is_missing(step)):
            with contextlib.suppress(Stopped):
                self.images(step)
                self.figures(step)  # last: where its line is, all of it was done
            if self.parallel.is_main:
                self.log.run.send("validation")
        self.parallel.wait()
        patience = self.config.run.early_stopping_patience
        if patience is not None and not self._stalled:
            self._stalled = self.parallel.decide(lambda: self._has_stalled(step, patience))

    def _with_others(self, make: Callable[[], bool]) -> bool:
        """What `make` says, on rank 0. The others do what it does where weights are sharded, and else nothing."""
        if self.parallel.sharded:
            return self.parallel.decide(make)
        return self.parallel.is_main and make()

    @contextmanager
    def _breaking_off(self) -> Iterator[None]:
        """A signal leaves this block, but where passes are made by all ranks together: the others would wait."""
        with contextlib.nullcontext() if self.parallel.sharded else self.stop.breaking_off():
            yield

    def stalled(self) -> bool:
        """Whether the held-out loss has not come down for as many validations as run.early_stopping_patience says. The
        same on every rank, as found when `run` was called last."""
        return self._stalled

    def _has_stalled(self, step: int, patience: int) -> bool:
        losses = self.log.held_out_losses
        if step == self.config.run.max_train_steps or without_improvement(losses) < patience:
            return False
        best = best_step(losses)
        since = f"since step {best} ({losses[best]:.4f})" if best else "at all"
        print(f"\nstops after step {step}: no lower held-out loss in {patience} validations, {since}", flush=True)
        return True

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
        with self._evaluating(), self._breaking_off():
            if self.held_out:
                setting, parallel = self.config.run, self.parallel
                where = setting.seed, parallel.device, parallel.dtype, setting.train_batch_size
                found |= measure_held_out(self.trainable, self.family, self.held_out, *where).figures()
            if self.config.validation.num_images and self.parallel.is_main:
                found |= self.samples.void(step)
        loss = found.get("validation_loss")
        if loss is not None and self._with_others(lambda: best_step(self.log.held_out_losses | {step: loss}) == step):
            self.export.best(step, loss)  # before its line, which says that all of it was done
        if found and self.parallel.is_main:
            self.log.validation(step, found)

    def images(self, step: int) -> None:
        """Draw the samples of RUN/samples/step-......../. The encoders are on the device for that alone."""
        if self.config.validation.num_images:
            models = self.trainable.models
            with self.family.encoders_on(self.parallel.device), self._evaluating(), self._breaking_off():
                pipeline = self.family.pipeline(*models)
                pipeline.set_progress_bar_config(desc="sampling", leave=False)
                pipeline.scheduler = quick_sampler(pipeline.scheduler)  # whatever the base names: DDPM needs hundreds
                with contextlib.ExitStack() as stack:
                    for model in models:
                        stack.enter_context(_under_autocast(model, self.parallel))
                    if self.parallel.is_main:
                        self.samples.draw(pipeline, step)
                    else:
                        self.samples.accompany(pipeline)

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


@dataclass(frozen=True, kw_only=True)
class HeldOutErrors:
    """Of n textures, or windows of them, at T times. A cell counts by its covered share, whatever the settings of the
    training mask, and of windows more where it is shown less often."""

    times: Tensor  # [T] int64
    own: Tensor  # [n, T] masked errors, summed over latent cells
    other: Tensor | None  # [n, T] the same with another mesh's map; None without a layout net, or another map
    regions: Tensor  # [2, 3], see `region_errors`
    cells: Tensor  # [n] covered latent cells

    def figures(self) -> dict[str, float | None]:
        """validation_loss, the masked MSE per covered latent cell, and error_inside, error_border and error_outside;
        where there are other maps layout_gain, and layout_gain_t... at each of the times."""
        error = torch.zeros(())
        for own in self.own:
            error += own.sum()
        covered = len(self.times) * sum(self.cells.tolist())
        figures = {"validation_loss": error.item() / covered, **error_figures(self.regions.flatten().tolist())}
        if self.other is not None:
            gains = (self.other - self.own).double().sum(dim=0) / self.cells.double().sum()  # [T]
            figures["layout_gain"] = gains.mean().item()
            figures |= {f"layout_gain_t{t}": gain for t, gain in zip(self.times.tolist(), gains.tolist(), strict=True)}
        return figures


def measure_held_out(
    predict: Predict,
    family: Family,
    textures: LatentDataset,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
) -> HeldOutErrors:
    """What `predict` makes of the first of the held-out textures, or of a few windows of each.

    Noise is keyed by texture and time and latents are the posterior's mean, so two values differ by the weights alone:
    from step to step, and between runs on one dataset. No pass holds more than `batch_size` samples, so what training
    has room for suffices.
    """
    process, grid = family.process, family.process.grid(TIMES)
    t, visits = grid.to(device), held_out_visits(textures)
    regions = torch.zeros(2, 3, device=device)
    own, other, cells = [], [], []
    for visit, index in tqdm(visits, desc="validating", unit="texture", leave=False, delay=BAR_SECONDS):
        texture = textures.seen(seed, [(visit, index)]).to(device, dtype)
        shape, key = texture.mean.shape[1:], ("validation", index, *([visit] if visit else []))
        draws = [torch.randn(shape, generator=keyed_generator(seed, *key, int(time))) for time in grid]
        noise = torch.stack(draws).to(device)  # [T, C, h, w]
        latents = family.latents(texture.mean).expand_as(noise)
        weights = texture.covered if texture.even is None else texture.covered * texture.even
        cells.append(weights.sum(dtype=torch.float64).float().cpu())
        covered = texture.covered.expand(TIMES, -1, -1, -1)
        noisy = process.add_noise(latents, noise, t).to(dtype)
        target = process.target(latents, noise, t)

        def predicted(layout: Tensor | None, texture=texture, noisy=noisy) -> Tensor:  # type: ignore[no-untyped-def]
            conditioning = Conditioning(
                prompt=texture.prompt, layout=layout, known=texture.known, sizes=texture.sizes
            ).expand(TIMES)
            parts = [slice(start, start + batch_size) for start in range(0, TIMES, batch_size)]
            return torch.cat([predict(noisy[part], t[part], conditioning[part]) for part in parts])

        prediction = predicted(texture.layout)
        own.append(masked_error(prediction, target, weights.expand_as(covered)).cpu())
        regions += region_errors(prediction, target, covered)
        if texture.layout is not None and (others := other_layout(textures, seed, visits, (visit, index))) is not None:
            other.append(masked_error(predicted(others.to(device)), target, weights.expand_as(covered)).cpu())
    return HeldOutErrors(
        times=grid,
        own=torch.stack(own),
        other=torch.stack(other) if len(other) == len(visits) else None,
        regions=regions.cpu(),
        cells=torch.stack(cells),
    )


def held_out_visits(textures: LatentDataset) -> list[SampleKey]:
    """What of held-out textures is looked at: (visit, texture), visits being to windows."""
    number = min(len(textures), TEXTURES)
    visits = max(1, min(TEXTURES // number, WINDOWS * textures.scales)) if textures.has_windows else 1
    return [(visit, index) for visit in range(visits) for index in range(number)]


def other_layout(textures: LatentDataset, seed: int, visits: Sequence[SampleKey], key: SampleKey) -> Tensor | None:
    """The map [1, 3, R, R] of the next of the textures in `visits`, in a circle, that has another than `key` shows."""
    own, number = textures.seen(seed, [key]).layout, 1 + max(index for _, index in visits)
    for step in range(1, number):
        found = textures.seen(seed, [(key[0], (key[1] + step) % number)]).layout
        if own is not None and found is not None and not torch.equal(found, own):
            return found
    return None
