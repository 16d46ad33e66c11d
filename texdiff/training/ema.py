"""An average of the trained weights: what is validated and exported where one is kept."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch.nn import Parameter
from torch.optim import Optimizer

from texdiff.config import OptimConfig
from texdiff.training.parallel.sharding import as_sharded, own_part, part_of


def make_ema(config: OptimConfig, parameters: Iterable[Parameter], optimizer: Optimizer) -> "Ema":
    """The average that the settings ask for, or the optimizer's own."""
    if config.name == "schedule_free_adamw":
        return ScheduleFreeAverage(parameters, optimizer)
    return Ema(parameters, config.ema_decay if config.use_ema else None)


class Ema:
    """diffusers' EMAModel over the trainable `parameters`; with `decay` None there is no average.

    As there, the decay starts small, (1 + n) / (10 + n) after n steps, so that the average forgets the beginning. It
    takes the memory of one more copy of the trainable weights, on their device; of sharded ones, of this rank's part.
    """

    def __init__(self, parameters: Iterable[Parameter], decay: float | None) -> None:
        self.of = list(parameters)
        self.parameters = [own_part(parameter) for parameter in self.of]
        self.model = None if decay is None else EMAModel(self.parameters, decay=decay, foreach=True)

    def step(self) -> None:
        """Take in the weights as the optimizer has just left them."""
        if self.model:
            self.model.step(self.parameters)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the averaged weights inside, and its own again afterwards."""
        if not self.model:
            yield
            return
        self.model.store(self.parameters)
        try:
            self.model.copy_to(self.parameters)
            yield
        finally:
            self.model.restore(self.parameters)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; empty where there is no average."""
        if not self.model:
            return {}
        state: dict[str, Any] = self.model.state_dict()
        pairs = zip(state["shadow_params"], self.of, strict=True)
        return state | {"shadow_params": [as_sharded(average, parameter) for average, parameter in pairs]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's average."""
        if self.model:
            pairs = zip(state["shadow_params"], self.of, strict=True)
            self.model.load_state_dict(state | {"shadow_params": [part_of(full, p) for full, p in pairs]})
            self.model.to(device=self.parameters[0].device)


class ScheduleFreeAverage(Ema):
    """The average that a schedule-free optimizer keeps of its steps, which is the model; the weights that it trains lie
    between that and the last step (Defazio et al. 2024)."""

    def __init__(self, parameters: Iterable[Parameter], optimizer: Any) -> None:
        super().__init__(parameters, decay=None)
        self.optimizer = optimizer

    @contextmanager
    def averaged(self) -> Iterator[None]:
        kept = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer.eval()
        try:
            yield
        finally:
            with torch.no_grad():  # its own way back rounds
                for parameter, own in zip(self.parameters, kept, strict=True):
                    parameter.copy_(own)
            for group in self.optimizer.param_groups:
                group["train_mode"] = True
