"""What a run does between its steps: figures, checkpoints, validation."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from texdiff.config import TrainingConfig
from texdiff.training.run.checkpoint import RunState
from texdiff.training.run.run_folder import RunLog, RunningMean
from texdiff.training.run.stop_signals import StopSignals
from texdiff.training.validation import Validation

Step = TypeVar("Step")
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
        stop: StopSignals,
    ) -> None:
        self.config, self.run, self.log, self.state, self.validation = config, run, log, state, validation
        self.accelerator, self.stop = accelerator, stop
        self.loss = RunningMean(SMOOTHED)  # the loss of single steps mostly says which timesteps were drawn
        self.bar = tqdm(total=config.run.max_train_steps, unit="step", disable=not accelerator.is_main_process)

    def begin(self, first_step: int) -> None:
        """Before the first step: from now on a stop saves what was done. The base's own figures and pictures, to
        compare with; or what was due when the run was stopped and is not there."""
        self.stop.finish_steps(self._leave, self.accelerator.num_processes)
        if (first_step == 0 or self._validation_is_due(first_step)) and self.validation.is_missing(first_step):
            self.validation.run(first_step)
        self.stop.check(first_step)

    def counting(self, steps: Iterable[Step], first_step: int) -> Iterator[Step]:
        """The same steps, with a bar that shows the steps."""
        with self.bar:
            self.bar.update(first_step)
            self.bar.unpause()
            yield from steps

    def after(self, done: int, loss: Tensor, errors: Tensor, figures: dict[str, Any]) -> None:
        """Log the step that makes `done` of them; write figures, save and validate where it is time to.

        `loss` and `errors` are this rank's parts, as `RunLog` takes them.
        """
        self.log.add(step=done, loss=loss, errors=errors, **figures)
        setting, validate_now = self.config.run, self._validation_is_due(done)
        save_now = done == setting.max_train_steps or done % setting.checkpointing_steps == 0
        # Figures come first: they stop a run whose loss is not finite, before it is saved.
        for line in self.log.flush_if_due(save_now or validate_now):
            shown = {"loss": f"{self.loss.add(line['loss']):.4f}", "images/s": f"{line['images_per_second']:.3g}"}
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update()
        if save_now:
            self.state.save(self.run, done)
        if validate_now:
            self.validation.run(done)
        self.stop.check(done)
        if save_now or validate_now:
            self.log.restart_clock()

    def _validation_is_due(self, done: int) -> bool:
        every = self.config.validation.every
        return done == self.config.run.max_train_steps or (every > 0 and done % every == 0)

    def _leave(self, done: int) -> None:
        self.log.flush_if_due(True)
        self.state.save(self.run, done)
        self.accelerator.end_training()
