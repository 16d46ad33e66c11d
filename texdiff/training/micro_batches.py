"""What each forward pass works on, prepared in the background while the one before it runs."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset, TextureBatch
from texdiff.diffusion.draws import Draws, SampleKey, draw, sample_keys
from texdiff.training.launch import Passes
from texdiff.training.objective import Objective

AHEAD = 2  # passes that wait to be used; reading one takes far less time than the U-Net does
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Pass:
    """This rank's part of a forward pass."""

    step: int  # the optimiser step it belongs to
    last: bool  # whether it is that step's last
    keys: list[SampleKey]
    batch: TextureBatch
    draws: Draws
    weights: Tensor  # [2, B] of the errors in latents and in pixels (Objective.weights)
    coverage: float  # mean share of latent texels that count, over the effective batch

    def to(self, device: torch.device, dtype: torch.dtype) -> "Pass":
        """The same on `device`, the text embedding as `dtype`, without waiting for the device."""
        batch, draws = self.batch.to(device, dtype), self.draws.to(device)
        return replace(self, batch=batch, draws=draws, weights=self.weights.to(device, non_blocking=True))


def make_passes(
    config: TrainingConfig,
    textures: LatentDataset,
    passes: Passes,
    objective: Objective,
    first_step: int = 0,
) -> Iterator[Pass]:
    """This rank's passes from `first_step` to the run's end, on the CPU.

    The samples of an effective batch, and what each weighs in it, are known before any of them is looked at.
    """
    seed, size, noise = config.run.seed, passes.effective_batch, config.noise
    for step in range(first_step, config.run.max_train_steps):
        keys = sample_keys(seed, step * size, size, len(textures))
        indices = [index for _, index in keys]
        timesteps = objective.process.times(seed, keys, noise.timestep_sampling, step)
        weights = objective.weights(textures, indices, timesteps)
        coverage = textures.coverage(indices)
        for mine, last in passes:
            shape, perturbation = textures.latent_shape, noise.input_perturbation
            draws = draw(seed, keys[mine], shape, timesteps[mine], noise.offset, perturbation)
            yield Pass(
                step=step,
                last=last,
                keys=keys[mine],
                batch=textures.batch(indices[mine], draws.caption, config.data.caption_dropout),
                draws=draws,
                weights=weights[..., mine].contiguous(),
                coverage=coverage,
            )


def feed(passes: Iterable[Pass], device: torch.device, dtype: torch.dtype) -> Iterator[Pass]:
    """The same passes in the same order, on `device`, each prepared while those before it are used."""
    if device.type == "cuda":
        passes = (_pinned(one) for one in passes)
    return (one.to(device, dtype) for one in prefetch(passes))


def prefetch(items: Iterable[Item], ahead: int = AHEAD) -> Iterator[Item]:
    """The same items in the same order, made in a thread, up to `ahead` of them before they are asked for.

    What making them raises is raised here, in its place. The thread ends with this iterator, or with the main thread.
    """
    ready: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(ahead)
    stop = threading.Event()

    def put(more: bool, item: Item | BaseException | None) -> bool:
        while not stop.is_set() and threading.main_thread().is_alive():
            try:
                ready.put((more, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for item in items:
                if not put(True, item):
                    return
            put(False, None)
        except BaseException as error:
            put(False, error)

    thread = threading.Thread(target=make, name="prefetch")
    thread.start()
    try:
        while True:
            more, item = ready.get()
            if isinstance(item, BaseException):
                raise item
            if not more:
                return
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


def _pinned(values: Any) -> Any:
    """A dataclass with its tensors in memory that a GPU can copy from by itself, while the program goes on."""
    found = {field.name: getattr(values, field.name) for field in fields(values)}
    tensors = {name: value.pin_memory() for name, value in found.items() if isinstance(value, Tensor)}
    inner = {name: _pinned(value) for name, value in found.items() if is_dataclass(value)}
    return replace(values, **tensors, **inner)
