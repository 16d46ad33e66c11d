"""The optimiser and the course of its learning rate."""

from collections.abc import Iterable

import torch
from diffusers.optimization import get_scheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from texdiff.config import OptimConfig


def make_optimizer(config: OptimConfig, parameters: Iterable[torch.nn.Parameter]) -> Optimizer:
    """The optimiser that `config.name` says, over `parameters`."""
    kind = torch.optim.Adafactor if config.name == "adafactor" else torch.optim.AdamW
    return kind(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)


def make_lr_scheduler(config: OptimConfig, optimizer: Optimizer, max_train_steps: int) -> LRScheduler:
    """diffusers' schedule, stepped once per optimiser step on any number of ranks."""
    return get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=max_train_steps,
    )
