"""An exponential moving average of the trained weights: what is validated and exported where it is kept."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel
from torch.nn import Parameter


class Ema:
    """diffusers' EMAModel over the trainable `parameters`; with `decay` None there is no average.

    As there, the decay starts small, (1 + n) / (10 + n) after n steps, so that the average forgets the beginning. It
    takes the memory of one more copy of the trainable weights, on their device.
    """

    def __init__(self, parameters: Iterable[Parameter], decay: float | None) -> None:
        self.parameters = list(parameters)
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
        return self.model.state_dict() if self.model else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's average."""
        if self.model:
            self.model.load_state_dict(state)
            self.model.to(device=self.parameters[0].device)
