"""The optimizer, its learning-rate schedule, and clipping."""

import contextlib
import math
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from texdiff.config import OptimConfig, TrainingConfig
from texdiff.errors import InputError, one_line
from texdiff.training.parallel import Parallel

# Of each optimizer that is not torch's the module and its class there.
_PACKAGES = {
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "prodigy": ("prodigyopt", "Prodigy"),
    "schedule_free_adamw": ("schedulefree", "AdamWScheduleFree"),
}


def make_optimizer(config: OptimConfig, parameters: Iterable[Parameter], scaled: bool = False) -> Optimizer:
    """The optimizer that `config.name` says, over `parameters`, which are on their device.

    `scaled`: gradients are scaled for float16. A fused step then leaves out infinite gradients without saying so, and
    the learning rate's schedule would continue; so there AdamW is not fused. Raises InputError for one that is not
    installed.
    """
    parameters = list(parameters)
    options: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.name == "adafactor":
        return torch.optim.Adafactor(parameters, **options)
    if config.name in _PACKAGES:
        return _from_package(config.name, parameters, options)
    fused = not scaled and all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    return torch.optim.AdamW(parameters, fused=fused, **options)


def check_installed(name: str) -> None:
    """Raise InputError where an optimizer is of a package that is not installed."""
    if name in _PACKAGES:
        _packaged(name)


def _packaged(name: str) -> type[Optimizer]:
    module, kind = _PACKAGES[name]
    package = module.partition(".")[0]
    try:
        found: type[Optimizer] = getattr(import_module(module), kind)
    except Exception as error:  # not installed, or without a library for this machine
        raise InputError(
            f"optim.name: {name} needs {package}, which cannot be imported ({one_line(error)[:200]}); pip install "
            f"{package}, or use adamw or adafactor"
        ) from None
    return found


def _from_package(name: str, parameters: list[Parameter], options: dict[str, Any]) -> Optimizer:
    kind: Any = _packaged(name)
    if name == "prodigy":
        with contextlib.redirect_stdout(None):  # it says that its weight decay is decoupled
            # As its authors advise for diffusion models; a learning rate that warms up would spoil its estimate else.
            return kind(parameters, **options, use_bias_correction=True, safeguard_warmup=True)
    optimizer = kind(parameters, **options)
    if name == "schedule_free_adamw":
        optimizer.train()
    return optimizer


def step_size(optimizer: Optimizer, lr_scheduler: LRScheduler) -> float | Tensor:
    """The learning rate of the next step; of Prodigy times the estimate that it has come to."""
    return lr_scheduler.get_last_lr()[0] * optimizer.param_groups[0].get("d", 1.0)


def prepare_optimizer(
    config: TrainingConfig, parameters: Iterable[Parameter], parallel: Parallel
) -> tuple[Optimizer, Callable[[], Tensor], LRScheduler]:
    """The optimizer over `parameters` as accelerate wraps it; what clips their gradients (see `make_clip`); and the
    schedule of the learning rate."""
    parameters, setting = list(parameters), config.optimizer
    optimizer = make_optimizer(setting, parameters, scaled=parallel.scaler is not None)
    clip_gradients = make_clip(setting, optimizer, parameters, parallel)
    lr_scheduler = make_lr_scheduler(setting, optimizer, config.run.max_train_steps)
    return parallel.prepare_optimizer(optimizer), clip_gradients, lr_scheduler


def step_in_backward(optimizer: Optimizer) -> list[Tensor]:
    """Let `optimizer` take its step for each parameter as soon as its gradient is there, and then forget the gradient.

    So there is never more than one gradient in memory. Returns a list that every backward pass fills with the squared
    norms of the gradients; empty it after each step.
    """
    norms: list[Tensor] = []
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    pairs = list(zip(settings, optimizer.param_groups, strict=True))
    optimizer.param_groups = [{"params": [p], **setting} for setting, group in pairs for p in group["params"]]

    def hook(number: int) -> Any:
        def step(parameter: Parameter) -> None:
            assert parameter.grad is not None
            norms.append(parameter.grad.detach().float().square().sum())
            # By its place: loading a state, as accelerate does too, makes new groups, and it is them that a
            # learning-rate schedule changes from then on.
            every = optimizer.param_groups
            optimizer.param_groups = [every[number]]
            try:
                optimizer.step()
            finally:
                optimizer.param_groups = every
            parameter.grad = None

        return step

    for number, group in enumerate(optimizer.param_groups):
        (parameter,) = group["params"]
        parameter.register_post_accumulate_grad_hook(hook(number))
    return norms


def make_clip(
    config: OptimConfig, optimizer: Optimizer, parameters: Iterable[Parameter], parallel: Parallel
) -> Callable[[], Tensor]:
    """What is to be called between backward pass and step: it scales gradients down to `config.max_grad_norm` and
    returns the norm [] that they had. With `config.fused_backward_pass` the optimizer takes its steps in the backward
    pass.

    Raises InputError where that is impossible. To be called before there is a scheduler: it changes the optimizer's
    groups.
    """
    if not config.fused_backward_pass:
        parameters = list(parameters)
        return lambda: parallel.clip_gradients(parameters, config.max_grad_norm or math.inf)
    if parallel.world > 1 or parallel.scaler is not None:
        raise InputError(
            "optim.fused_backward_pass: needs a single process and bf16 or no mixed precision; set it to false"
        )
    squares = step_in_backward(optimizer)

    def norm() -> Tensor:
        total = torch.stack(squares).sum().sqrt()
        squares.clear()
        return total

    return norm


def make_lr_scheduler(config: OptimConfig, optimizer: Optimizer, max_train_steps: int) -> LRScheduler:
    """diffusers' schedule, stepped once per optimizer step on any number of ranks."""
    return get_scheduler(
        config.lr_scheduler,
        optimizer=optimizer,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=max_train_steps,
    )
