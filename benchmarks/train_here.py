"""Training in this process, since starting programs would take longer than what a study of many small runs trains."""

import contextlib
from pathlib import Path

from texdiff.config import TrainingConfig
from texdiff.training.run.stop_signals import StopSignals
from train_texture import train


def train_here(config: TrainingConfig, log: Path) -> None:
    """Bring the run to its end, or find it there; what it says is added to the file `log`."""
    with (
        log.open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
        StopSignals(config.run.resume) as stop,
    ):
        train(config, False, stop)
