"""The run's folder: which one it is, what it says at the start, and its figures."""

import fcntl
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texdiff.errors import InputError
from texdiff.files import fsync, write_atomic
from texdiff.training.run.checkpoint import newest_good
from texdiff.training.run.finite_check import LossGuard

FLUSH_STEPS = 10  # reading a figure from a GPU waits for it, so figures are read in blocks


def choose_run_folder(output_dir: str, resume: str) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from if there is one. Nothing is written yet.

    With `never`, a folder that is in use stays as it is and the run goes to NAME-2, NAME-3, ...
    Raises InputError for a folder that holds something else than a run.
    """
    run = Path(output_dir)
    if run.exists() and not run.is_dir():
        raise InputError(f"run.output_dir: {run} is a file; name a folder")
    if resume == "never":
        number = 2
        while run.exists() and any(run.iterdir()):
            run = Path(output_dir).with_name(f"{Path(output_dir).name}-{number}")
            number += 1
        return run, None
    others = run.exists() and any(not path.name.startswith(".") for path in run.iterdir())
    if others and not (run / "config.yaml").is_file():
        raise InputError(f"run.output_dir: {run} holds other files and no run; name a new folder, or empty it")
    return run, newest_good(run)


def lock(run: Path) -> None:
    """Keep other processes from this run until ours ends, however it ends. Raises InputError where one is at work:
    a launcher that was stopped may be gone while what it launched is finishing its step."""
    descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held as long as the descriptor is open
    except BlockingIOError:
        raise InputError(f"{run}: another process is at work here, on its last step maybe; wait, or end it") from None
    except OSError:  # a file system without locks
        os.close(descriptor)


class RunLog:
    """Figures of a run, one line of RUN/metrics.jsonl a step, and the same to accelerate's trackers.

    Tensors are kept on their device and read in blocks of `FLUSH_STEPS`.
    """

    def __init__(self, run: Path, accelerator: Any, step: int, effective_batch: int) -> None:
        self.effective_batch = effective_batch
        self.path = run / "metrics.jsonl"
        self.accelerator = accelerator
        self.guard = LossGuard(accelerator)
        self.pending: list[dict[str, Any]] = []
        self.since = time.perf_counter()
        # Lines after the checkpoint that we go on from belong to steps that will be done again.
        kept = [line for line in _whole_lines(self.path) if step > 0 and line["step"] <= step]
        self.validated = {line["step"] for line in kept if "validation_loss" in line}
        if accelerator.is_main_process and self.path.exists():
            write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def add(self, *, loss: Tensor, errors: Tensor, **figures: Any) -> None:
        """Figures of one step; `loss` [] and `errors` [2, 3], the `region_errors`, are this rank's parts of the
        effective batch's."""
        self.pending.append({"sums": torch.cat([loss.view(1), errors.flatten()]), **figures})

    def flush_if_due(self, now: bool = False) -> list[dict[str, Any]]:
        """Write what is pending once it is a block, or `now`; returns the lines written. Every rank must call it.

        Raises InputError where a loss is not finite: nothing is written after it, so that no checkpoint can be either.
        """
        if not self.pending or not (now or len(self.pending) >= FLUSH_STEPS):
            return []
        self.guard.finish()
        totals = self.accelerator.reduce(torch.stack([f.pop("sums") for f in self.pending]), "sum").tolist()
        seconds = (time.perf_counter() - self.since) / len(self.pending)
        speed = round(self.effective_batch / seconds, 4)
        lines = []
        for figures, (loss, *errors) in zip(self.pending, totals, strict=True):
            figures = {name: _plain(v) for name, v in figures.items()}
            samples = figures["step"] * self.effective_batch
            line = {**figures, "samples_seen": samples, "loss": loss, **error_figures(errors)}
            lines.append(line | {"images_per_second": speed})
        self.pending = []
        self.since = time.perf_counter()
        for line in lines:
            self._write(line)
        if now and self.accelerator.is_main_process:
            fsync(self.path)  # a checkpoint comes next, and may not outlive its figures
        return lines

    def validation(self, step: int, figures: dict[str, float | None]) -> None:
        """A line of its own for the held-out loss and errors."""
        self._write({"step": step, "samples_seen": step * self.effective_batch, **figures})

    def restart_clock(self) -> None:
        """What was done since the last step, validation say, is nobody's step."""
        self.since = time.perf_counter()

    def _write(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        figures = {name: value for name, value in line.items() if name != "step" and value is not None}
        self.accelerator.log(figures, step=line["step"])


class RunningMean:
    """The exponential running mean that looks back on about `window` values, without a bias to where it starts."""

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


def _plain(figure: Any) -> Any:
    """A figure as JSON can say it: the infinite norm of a gradient that the scaler of float16 leaves out is None."""
    value = figure.item() if isinstance(figure, Tensor) else figure
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, up to the first that is torn: the machine went down, or the disk was full."""
    lines = []
    for text in path.read_bytes().splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            line["step"] = int(line["step"])
        except (ValueError, TypeError, KeyError):
            break
        lines.append(line)
    return lines
