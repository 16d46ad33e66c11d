"""What a run does between its steps: figures, checkpoints, validation."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from texdiff.config import TrainingConfig
from texdiff.training.checkpoint import RunState
from texdiff.training.feed import Pass
from texdiff.training.run_folder import RunLog, RunningMean
from texdiff.training.validation import Validation

SMOOTHED = 100  # steps that the bar's loss looks back on


class Housekeeping:
    """Looks after the run's folder `run` once a step is done. Every rank must call it."""

    def __init__(
        self,
        config: TrainingConfig,
        accelerator: Accelerator,
        run: Path,
        log: RunLog,
        state: RunState,
        validation: Validation,
    ) -> None:
        self.config, self.run, self.log, self.state, self.validation = config, run, log, state, validation
        self.loss = RunningMean(SMOOTHED)  # the loss of single steps mostly says which timesteps were drawn
        self.bar = tqdm(total=config.run.max_train_steps, unit="step", disable=not accelerator.is_main_process)

    def counting(self, passes: Iterable[Pass], first_step: int) -> Iterator[Pass]:
        """The same passes, with a bar that shows the steps."""
        with self.bar:
            self.bar.update(first_step)
            self.bar.unpause()
            yield from passes

    def after(self, done: int, loss: Tensor, errors: Tensor, figures: dict[str, Any]) -> None:
        """Log the step that makes `done` of them; write figures, save and validate where it is time to.

        `loss` and `errors` are this rank's parts, as `RunLog` takes them.
        """
        self.log.add(step=done, loss=loss, errors=errors, **figures)
        setting = self.config.run
        last, every = done == setting.max_train_steps, self.config.validation.every
        save_now = last or done % setting.checkpointing_steps == 0
        validate_now = last or (every > 0 and done % every == 0)
        # Figures come first: they stop a run whose loss is not finite, before it is saved.
        for line in self.log.flush_if_due(save_now or validate_now):
            shown = {"loss": f"{self.loss.add(line['loss']):.4f}", "images/s": f"{line['images_per_second']:.3g}"}
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        if save_now:
            self.state.save(self.run, done)
        if validate_now:
            self.validation.loss(done)
            self.validation.pictures(done)
        if save_now or validate_now:
            self.log.restart_clock()
