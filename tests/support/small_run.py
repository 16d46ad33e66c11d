"""A small model in the middle of its training, with its checkpoints."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState

from texdiff.config import DataConfig, RunConfig, TrainingConfig
from texdiff.training.ema import Ema
from texdiff.training.optimizer import make_lr_scheduler, make_optimizer
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.checkpoint import Checkpointer, newest_good
from texdiff.training.run.metrics_log import MetricsLog

CONFIG = TrainingConfig(data=DataConfig(dataset="x"), run=RunConfig(report_to="none"))


@pytest.fixture(scope="module")
def parallel():
    yield Parallel(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def a_run(parallel, run, config=CONFIG, dataset="content", effective_batch=4, width=3):
    """A small model in the middle of its training, and the state of that run."""
    layer = torch.nn.Linear(width, 2)
    parameters = dict(layer.named_parameters())
    optimizer = make_optimizer(config.optim, parameters.values())
    schedule = make_lr_scheduler(config.optim, optimizer, config.run.max_train_steps)
    ema = Ema(parameters.values(), 0.9)
    log = MetricsLog(Run(run, newest_good(Run(run))), parallel, effective_batch, config)
    state = Checkpointer(log.run, log, config, dataset, parameters, optimizer, schedule, ema)

    def step():
        layer(torch.ones(1, width)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        ema.step()

    return SimpleNamespace(layer=layer, state=state, step=step, ema=ema)


def saved(parallel, run: Path, steps=(1, 2, 3), config=CONFIG):
    one = a_run(parallel, run, config)
    for number in steps:
        one.step()
        one.state.save(number)
    return one
