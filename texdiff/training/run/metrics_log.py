"""The figures of a run while it trains: metrics.jsonl, trackers, and the progress bar."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from texdiff.config import TrainingConfig
from texdiff.data.mixture import Mixture
from texdiff.errors import InputError, one_line
from texdiff.files import fsync, write_atomic
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.best import held_out_losses
from texdiff.training.run.finite_check import FiniteCheck

FLUSH_STEPS = 10  # reading a figure from a GPU waits for it, so figures are read in blocks
SMOOTHED = 100  # steps that the bar's loss averages over: that of single steps mostly says which timesteps were drawn


class MetricsLog:
    """Figures of a run, one line of RUN/metrics.jsonl a step, and the same to trackers.

    Tensors are kept on their device and read in blocks of `FLUSH_STEPS`. Raises InputError where the tracker that
    run.report_to names cannot be had.
    """

    def __init__(
        self,
        run: Run,
        parallel: Parallel,
        effective_batch: int,
        config: TrainingConfig,
        mixture: Mixture | None = None,
    ) -> None:
        self.run, self.parallel, self.effective_batch = run, parallel, effective_batch
        self.mixture, self.seed = mixture, config.run.seed
        self.finite = FiniteCheck(parallel)
        self.trackers = _start_trackers(config, run) if parallel.is_main else []
        self.validated: set[int] = set()  # steps that have a line of validation; known to rank 0
        self.held_out_losses: dict[int, float] = {}  # by step; known to rank 0
        self.done = 0  # steps, once `steps` has begun
        self._pending: list[dict[str, Any]] = []
        self._since = time.perf_counter()
        self._smoothed = RunningMean(SMOOTHED)
        self._bar: Any = None

    def drop_after(self, step: int, *, keep_later: bool = False) -> None:
        """Forget the lines after `step` steps, all at 0: these steps will be done again. With `keep_later` they stay in
        the file."""
        if self.parallel.is_main and self.run.metrics_file.exists():
            lines = self.run.all_metrics()
            done = [line for line in lines if step > 0 and line["step"] <= step]
            kept = lines if keep_later else done
            self.validated = {line["step"] for line in done if {"validation_loss", "void_on_surface"} & line.keys()}
            self.held_out_losses = held_out_losses(done)
            write_atomic(self.run.metrics_file, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def steps(self, first: int, last: int, until: Callable[[], bool] = lambda: False) -> Iterator[int]:
        """The numbers of the steps after `first`, up to `last` or until `until` holds, with a bar that shows how many
        are done."""
        self.done = first
        with tqdm(total=last, initial=first, unit="step", disable=not self.parallel.is_main) as self._bar:
            for step in range(first + 1, last + 1):
                if until():
                    return
                if not self._pending:  # what was done since the last block, validation say, is nobody's step
                    self._since = time.perf_counter()
                yield step
                self.done = step
                self._bar.update()

    def add(
        self, step: int, loss: Tensor, errors: Tensor, portions: Sequence[float] = (1.0,), **figures: float | Tensor
    ) -> None:
        """Figures of the step that makes `step` of them; `loss` [G], what the samples of each of the mixture's groups
        add to the loss, and `errors` [2, 3], the `region_errors`, are this rank's parts of the effective batch's.
        `portions` [G] are the groups' shares in what the loss is a mean over. Every rank must call it; raises as
        `flush` does."""
        sums = torch.cat([loss.flatten(), errors.flatten()])
        self._pending.append({"step": step, "sums": sums, "portions": portions, **figures})
        if len(self._pending) >= FLUSH_STEPS:
            self._write_pending()

    def flush(self) -> None:
        """Write what is pending, and wait until it is on the disk: a checkpoint may not outlive its figures.

        Raises InputError where a loss is not finite: nothing is written after it, so that no checkpoint can be either.
        Every rank must call it.
        """
        if self._pending:
            self._write_pending()
            if self.parallel.is_main:
                fsync(self.run.metrics_file)

    def validation(self, step: int, figures: Mapping[str, float | None]) -> None:
        """A line of its own for what validation found. For rank 0 alone."""
        line = {"step": step, "samples_seen": step * self.effective_batch, **figures}
        self._write(line)
        self.held_out_losses |= held_out_losses([line])

    def images(self, step: int, images: Mapping[str, Sequence[NDArray[np.uint8]]]) -> None:
        """Sample images [H, W, 3] of each kind, for trackers that take images. For rank 0 alone."""
        for tracker in self.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            for kind, some in images.items():
                if some and hasattr(tracker, "log_images"):
                    tracker.log_images({f"samples/{kind}": np.stack(some)}, step=step, **layout)

    def close(self) -> None:
        """End the trackers."""
        while self.trackers:
            self.trackers.pop().finish()

    def _write_pending(self) -> None:
        self.finite.finish()
        totals = self.parallel.sum(torch.stack([figures.pop("sums") for figures in self._pending])).tolist()
        seconds = (time.perf_counter() - self._since) / len(self._pending)
        speed = round(self.effective_batch / seconds, 4)
        for figures, sums in zip(self._pending, totals, strict=True):
            portions, (*losses, _, _, _, _, _, _) = figures.pop("portions"), sums
            loss, errors = sum(losses), sums[-6:]
            line: dict[str, Any] = {name: _plain(value) for name, value in figures.items()}
            line |= {"samples_seen": line["step"] * self.effective_batch, "loss": loss, **error_figures(errors)}
            line |= self._by_source(line["samples_seen"], losses, portions)
            cells = round((errors[3] + errors[4]) / seconds)  # covered ones, inside and at the border
            self._write(line | {"images_per_second": speed, "covered_cells_per_second": cells})
            shown = {"loss": f"{self._smoothed.add(loss):.4f}", "images/s": f"{speed:.3g}"}
            if self._bar is not None:
                self._bar.set_postfix(shown, refresh=False)
        if self.parallel.is_main:
            self.run.send("figures")
        self._pending = []
        self._since = time.perf_counter()

    def _by_source(self, samples: int, losses: Sequence[float], portions: Sequence[float]) -> dict[str, float | None]:
        """Where there are several sources, each one's share of all visits so far, and the step's loss over its samples
        alone; None where it has none in this step."""
        if self.mixture is None or len(self.mixture.groups) == 1:
            return {}
        figures: dict[str, float | None] = {}
        shares = self.mixture.seen(self.seed, samples)
        for group, share, loss, portion in zip(self.mixture.groups, shares, losses, portions, strict=True):
            figures |= {f"share/{group.name}": share, f"loss/{group.name}": loss / portion if portion else None}
        return figures

    def _write(self, line: dict[str, Any]) -> None:
        if not self.parallel.is_main:
            return
        with self.run.metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        figures = {name: value for name, value in line.items() if name != "step" and value is not None}
        for tracker in self.trackers:
            tracker.log(figures, step=line["step"])


def _start_trackers(config: TrainingConfig, run: Run) -> list[GeneralTracker]:
    """What run.report_to names. Raises InputError where that is not installed, or refuses."""
    name = config.run.report_to
    if name == "none":
        return []
    kind = LOGGER_TYPE_TO_CLASS[name]
    try:
        tracker = kind("texdiff", *([str(run.trackers_folder)] if kind.requires_logging_directory else []))
        tracker.start()
        tracker.store_init_configuration(_flat(config.to_dict()))
    except Exception as error:  # each tracker has its own: not installed, not logged in, no network
        raise InputError(
            f"run.report_to: {name} cannot start ({one_line(error)[:200]}); install it, log in, or set it to none"
        ) from None
    return [tracker]


class RunningMean:
    """The exponential running mean over about the last `window` values, without a bias to where it starts."""

    def __init__(self, window: float) -> None:
        self.keep = 1 - 1 / max(window / 2, 1)
        self.total = self.weight = 0.0

    def add(self, value: float) -> float:
        """Take one more value in; returns the mean."""
        self.total = self.keep * self.total + (1 - self.keep) * value
        self.weight = self.keep * self.weight + (1 - self.keep)
        return self.total / self.weight


def error_figures(errors: Sequence[float]) -> dict[str, float | None]:
    """Mean squared errors per latent cell of `region_errors`' six numbers; None where a region has no cell, or where
    its error is not finite, which JSON cannot say."""
    means = {}
    for region, total, cells in zip(("inside", "border", "outside"), errors[:3], errors[3:], strict=True):
        means[f"error_{region}"] = total / cells if cells and math.isfinite(total) else None
    return means


def _plain(figure: float | Tensor) -> float | None:
    """A figure as JSON can say it: the infinite norm of a gradient that the scaler of float16 leaves out is None."""
    value = figure.item() if isinstance(figure, Tensor) else figure
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """section.key to a plain value, which is all that trackers take."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, int | float | bool | str) else str(value)
    return flat
