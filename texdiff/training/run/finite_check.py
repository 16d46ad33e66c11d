"""A loss or a gradient that is not finite stops the run, with the names of its textures."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from texdiff.errors import InputError
from texdiff.training.parallel import Parallel

SHOWN = 8  # names at most


class _Seen(NamedTuple):
    step: int
    names: Sequence[str]  # of this rank's textures
    losses: Tensor  # [N] of these
    bad: Tensor  # [2] ranks with a loss that is not finite; whether the gradient's norm is not
    copied: torch.cuda.Event | None  # both are on the CPU after it


class FiniteCheck:
    """Looks at a step's losses and the norm of its gradient, once a step, before that is made. Ranks stop together.

    Reading from a GPU waits for it, so there both are copied in the background and looked at one step later. What an
    optimizer step in between did to the weights is lost with the run: nothing is saved before `finish`, which
    `MetricsLog` calls when it writes figures.
    """

    def __init__(self, parallel: Parallel) -> None:
        self.parallel = parallel
        self._waiting: deque[_Seen] = deque()
        self._losses: list[Tensor] = []  # of the step at hand
        self._names: list[str] = []

    def add(self, losses: Tensor, names: Sequence[str]) -> None:
        """Take in the losses [B] of a micro-batch, of textures `names`."""
        self._losses.append(losses.detach())
        self._names += names

    def check(self, step: int, norm: Tensor) -> None:
        """Look at what was added, and at the norm [] of its gradient, before optimizer step `step` is made.

        Every rank must call it. Raises InputError where a loss or the gradient is not finite, on a GPU those of the
        step before. Where gradients are scaled for float16, some are infinite as a matter of course, and the scaler
        leaves their steps out.
        """
        losses, names = torch.cat(self._losses), self._names
        self._losses, self._names = [], []
        bad_losses = self.parallel.sum((~losses.isfinite()).any().float())
        bad_gradient = (~norm.detach().isfinite()).float().to(losses.device) * (self.parallel.scaler is None)
        bad = torch.stack([bad_losses, bad_gradient])
        copied = None
        later = losses.device.type == "cuda"
        if later:
            losses, bad = (torch.empty_like(t, device="cpu", pin_memory=True).copy_(t, True) for t in (losses, bad))
            copied = torch.cuda.Event()
            copied.record()
        self._waiting.append(_Seen(step, names, losses, bad, copied))
        while len(self._waiting) > later:
            self._look_at(self._waiting.popleft())

    def finish(self) -> None:
        """Look at all that is still waiting. Every rank must call it; raises as `check` does."""
        while self._waiting:
            self._look_at(self._waiting.popleft())

    def _look_at(self, seen: _Seen) -> None:
        if seen.copied is not None:
            seen.copied.synchronize()
        loss, gradient = seen.bad.tolist()
        if not loss and not gradient:
            return
        finite = seen.losses.isfinite().tolist() if loss else [False] * len(seen.names)
        mine = [name for name, good in zip(seen.names, finite, strict=True) if not good]
        raise InputError(non_finite("loss" if loss else "gradient", seen.step, self.parallel.gather(mine)))


def non_finite(what: str, step: int, names: Sequence[str]) -> str:
    """The one line that the run ends with."""
    names = list(dict.fromkeys(names))  # a batch may hold one several times
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"step {step}: the {what} of {', '.join(names[:SHOWN])}{more} is not finite, so the run stops before it learns "
        "from it; correct or remove these files, or lower optim.learning_rate, and start over with --run.resume never, "
        "since a checkpoint takes neither change"
    )
