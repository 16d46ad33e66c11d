"""What each forward pass works on, prepared in the background while the one before it runs."""

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.diffusion.draws import draw
from texdiff.training.batching import BatchPlan, MicroBatch
from texdiff.training.objective import Objective

AHEAD = 2  # micro-batches that wait to be used; reading one takes far less time than a pass
Item = TypeVar("Item")


def make_micro_batches(
    config: TrainingConfig,
    textures: LatentDataset,
    plan: BatchPlan,
    objective: Objective,
    first_step: int = 0,
) -> Iterator[MicroBatch]:
    """This rank's micro-batches from `first_step` to the run's end, on the CPU.

    The samples of an effective batch, and what each weighs in it, are known before any of them is looked at.
    """
    seed, size, noise = config.run.seed, plan.effective_batch, config.noise
    for step in range(first_step, config.run.max_train_steps):
        keys = textures.mixture.keys(seed, step * size, size)
        indices, views = [index for _, index in keys], textures.views(seed, keys)
        t = objective.family.process.times(seed, keys, noise.timestep_sampling, step)
        weights = objective.weights(textures, views, t)
        group, portions = textures.mixture.group_of[indices], objective.portions(textures, views)
        coverage = textures.coverage(views)
        for mine, is_last in plan:
            shape, perturbation = textures.latent_shape, noise.input_perturbation
            draws = draw(seed, keys[mine], shape, t[mine], noise.offset, perturbation)
            chosen = textures.seen(seed, keys[mine], draws.caption, config.data.caption_dropout, draws.hiding)
            if chosen.layout is not None and config.layout.dropout:
                kept = (draws.layout >= config.layout.dropout).view(-1, 1, 1, 1)
                chosen = replace(chosen, layout=chosen.layout * kept)
            yield MicroBatch(
                step=step,
                is_last=is_last,
                keys=keys[mine],
                textures=chosen,
                draws=draws,
                weights=weights[..., mine].contiguous(),
                group=group[mine],
                portions=portions,
                coverage=coverage,
            )


def feed(batches: Iterable[MicroBatch], device: torch.device, dtype: torch.dtype) -> Iterator[MicroBatch]:
    """The same micro-batches in the same order, on `device`, each prepared while those before it are used."""
    if device.type == "cuda":
        batches = (_pinned(batch) for batch in batches)
    return (batch.to(device, dtype) for batch in prefetch(batches))


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


def _pinned(value: Any) -> Any:
    """The value with its tensors in memory that a GPU can copy from by itself, while the program continues."""
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {name: _pinned(part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _pinned(getattr(value, field.name)) for field in fields(value)})
    return value
