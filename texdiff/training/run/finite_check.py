"""A loss or a gradient that is not finite stops the run, with the names of its textures."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from texdiff.errors import InputError

SHOWN = 8  # names at most


class _Seen(NamedTuple):
    what: str  # the loss or the gradient
    step: int
    names: Sequence[str]
    losses: Tensor  # [B] of this rank; of a gradient its norm, [1], which stands for all names
    bad: Tensor  # [] number of passes of all ranks that are not finite
    copied: torch.cuda.Event | None  # both are on the CPU after it


class LossGuard:
    """Looks at each pass's losses before its gradient is computed.

    On a CPU they are looked at at once. Reading from an accelerator waits for it, so there the losses are copied in the
    background and looked at one pass later. What an optimiser step in between did to the weights is lost with the run:
    nothing is saved before `finish`, which `RunLog` calls when it writes figures. Ranks stop together.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.waiting: deque[_Seen] = deque()
        self.names: list[str] = []  # of the step at hand, this rank's

    def check(self, step: int, losses: Tensor, names: Sequence[str]) -> None:
        """Take in the losses [B] of a pass of optimiser step `step`, of textures `names`. Every rank must call it.

        Raises InputError where an earlier pass, on a CPU this one, has a loss that is not finite.
        """
        self.names += names
        losses = losses.detach()
        bad = (~losses.isfinite()).any().float()
        if self.accelerator.num_processes > 1:
            bad = self.accelerator.reduce(bad, "sum")
        self._take_in("loss", step, names, losses, bad)

    def check_gradient(self, step: int, norm: Tensor) -> None:
        """Take in the norm [] of the gradient of optimiser step `step`, before that is made. Every rank must call it.

        Raises as `check` does. Where gradients are scaled for float16, some are infinite as a matter of course, and the
        scaler leaves their steps out.
        """
        names, self.names = self.names, []
        if self.accelerator.scaler is None:
            self._take_in("gradient", step, names, norm.detach().view(1), (~norm.isfinite()).float())

    def _take_in(self, what: str, step: int, names: Sequence[str], losses: Tensor, bad: Tensor) -> None:
        later = losses.device.type == "cuda"
        copied = None
        if later:
            losses, bad = (torch.empty_like(t, device="cpu", pin_memory=True).copy_(t, True) for t in (losses, bad))
            copied = torch.cuda.Event()
            copied.record()
        self.waiting.append(_Seen(what, step, names, losses, bad, copied))
        while len(self.waiting) > later:
            self._look_at(self.waiting.popleft())

    def finish(self) -> None:
        """Look at all that is still waiting. Every rank must call it; raises as `check` does."""
        while self.waiting:
            self._look_at(self.waiting.popleft())

    def _look_at(self, seen: _Seen) -> None:
        if seen.copied is not None:
            seen.copied.synchronize()
        if seen.bad == 0:
            return
        finite = seen.losses.isfinite().expand(len(seen.names)).tolist()
        mine = [name for name, good in zip(seen.names, finite, strict=True) if not good]
        raise InputError(non_finite(seen.what, seen.step, gather_object(mine)))


def non_finite(what: str, step: int, names: Sequence[str]) -> str:
    """The one line that the run ends with."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"step {step}: the {what} of {', '.join(names[:SHOWN])}{more} is not finite, so the run stops before it learns "
        "from it; look at these files, or lower optim.learning_rate, and start again from the last checkpoint"
    )
