"""The processes of a run: started by accelerate as its own configuration says, and what they tell each other."""

import os
import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    patch_environment,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from texdiff.config import TrainingConfig
from texdiff.errors import InputError
from texdiff.models.trainable import Trainable
from texdiff.training.parallel import sharding

# A process that was killed is noticed at once. This is for one that hangs, and has to be longer than what the others
# do without it: the main process samples and saves, and one may have the larger share of the textures to encode.
PATIENCE = timedelta(minutes=60)
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
REFUSED = {
    "DEEPSPEED": "DeepSpeed is not supported, since its engine steps after every backward pass, which accumulated "
    "micro-batches must not",
    "MEGATRON_LM": "Megatron-LM is not supported",
    "PARALLELISM_CONFIG": "parallelism_config is not supported",
}

Decision = TypeVar("Decision")
Item = TypeVar("Item")
State = TypeVar("State")


class Parallel:
    """This process among those of the run.

    Raises InputError where accelerate's configuration cannot be had on this machine, where it asks for what texdiff
    does not train with, and where processes were launched that know nothing of each other and would write over each
    other's files.
    """

    def __init__(self, *, cpu: bool = False) -> None:
        for name, what in REFUSED.items():
            if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
                raise InputError(
                    f"accelerate's configuration: {what}; leave it out, or for full fine-tuning use FSDP with "
                    "fsdp_version 2 (accelerate config)"
                )
        shards = sharding.is_asked_for()
        try:
            # Gradients stand in the buckets that are sent to the other ranks, rather than there and once more.
            buckets = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
            group = InitProcessGroupKwargs(timeout=PATIENCE)
            with patch_environment(ACCELERATE_USE_FSDP="false"):  # what it would do, and more, is in sharding.py
                self.accelerator = Accelerator(cpu=cpu, kwargs_handlers=[buckets, group])
        except (ValueError, ImportError, RuntimeError) as error:
            raise InputError(
                f"accelerate cannot start: {error}; change its configuration (accelerate config)"
            ) from None
        self.rank: int = self.accelerator.process_index
        self.world: int = self.accelerator.num_processes
        self.sharded = shards and self.world > 1
        """Whether each rank has but a part of the trained weights, so that a pass needs all of them."""
        self.is_main: bool = self.accelerator.is_main_process
        self.device: torch.device = self.accelerator.device
        self.mixed_precision: str = self.accelerator.mixed_precision
        self.scaler: torch.amp.GradScaler | None = self.accelerator.scaler
        self._gloo: torch.distributed.ProcessGroup | None = None
        launched = int(os.environ.get("WORLD_SIZE", 1))
        if launched != self.world:
            raise InputError(
                f"{launched} processes were launched but accelerate runs {self.world}, so each would train alone; on "
                "CPUs set ACCELERATE_USE_CPU=true, else give accelerate the number of processes"
            )
        if self.mixed_precision not in DTYPES:
            raise InputError(f"mixed_precision: {self.mixed_precision} is not supported; use no, fp16 or bf16")
        if self.mixed_precision == "fp16" and self.device.type == "cpu":  # accelerate has no autocast there
            raise InputError("mixed_precision: fp16 needs a GPU; use no or bf16")
        self.place = f"process {self.rank} on {socket.gethostname()}"
        self.machines = len({*self.gather([(socket.gethostname(), os.environ.get("GROUP_RANK"))])})

    @property
    def dtype(self) -> torch.dtype:
        """What frozen weights and activations are kept in; trained weights are float32 always."""
        return DTYPES[self.mixed_precision]

    def __str__(self) -> str:
        """How many processes, where, and how they share the work."""
        if self.world == 1:
            return f"1 on {self.device.type}"
        how = "FSDP2" if self.sharded else "DDP"
        return (
            f"{self.world} on {self.device.type} ({how if self.machines == 1 else f'{how}, {self.machines} machines'})"
        )

    def together(self, folder: Path) -> list[int]:
        """The ranks for which `folder` is the same folder as for this one, in ascending order. They know by a file that
        each leaves there for a moment; one that cannot is seen by nobody else. Every rank must call it."""
        if self.world == 1:
            return [0]
        token = self.decide(lambda: secrets.token_hex(8))
        # By names that nobody has looked for yet: a network's file system may remember that there is no such file.
        markers = [folder / f".texdiff-{token}-{rank}" for rank in range(self.world)]
        with suppress(OSError):
            markers[self.rank].touch()
        self.wait()
        found = [rank for rank, marker in enumerate(markers) if rank == self.rank or marker.exists()]
        self.wait()
        with suppress(OSError):
            markers[self.rank].unlink()
        return found

    def share_of(self, folder: Path | str) -> slice:
        """This rank's part of the work on a sequence whose results go to `folder`, which is made where it is missing:
        it is shared out among the ranks that see the same folder, at an address in storage among all. Every rank must
        call it."""
        if isinstance(folder, str):
            return slice(self.rank, None, self.world)
        with suppress(OSError):  # whoever writes there says what is wrong
            folder.mkdir(parents=True, exist_ok=True)
        ranks = self.together(folder)
        return slice(ranks.index(self.rank), None, len(ranks))

    def agree(self, found: str, what: str) -> None:
        """Raise InputError on every rank where `what` is not the same for all of them: `found` says what it is for this
        one. Every rank must call it."""
        everywhere = self.gather([(found, self.place)])
        others = [place for other, place in everywhere if other != everywhere[0][0]]
        if others:
            raise InputError(
                f"{what} of {', '.join(others)} are not those of {everywhere[0][1]}; give every machine the same"
            )

    def check(self, config: TrainingConfig) -> None:
        """Raise InputError for settings that cannot be had with how the ranks share the work."""
        if self.sharded:
            sharding.check(config, self.mixed_precision, self.device)

    def prepare_model(self, model: Trainable) -> nn.Module:
        """The model on the device, under autocast, with gradients averaged over the ranks. Sharding is what changes its
        parameters for others of the same names."""
        if not self.sharded:
            return self.accelerator.prepare_model(model)
        sharding.shard(model.denoiser, self.device, self.world, self.dtype)
        return self.accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # autocast alone

    def prepare_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer with gradients unscaled first, where float16 scales them."""
        return self.accelerator.prepare_optimizer(optimizer)

    def sync_gradients(self, model: nn.Module, only_if: bool) -> AbstractContextManager[None]:
        """A block whose backward pass averages gradients over the ranks only in a step's last micro-batch."""
        return nullcontext() if only_if or self.sharded else self.accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` [], this rank's part of the step's: ranks average theirs, and here add up."""
        self.accelerator.backward(loss * self.world)

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale gradients down to `max_norm` where their norm [], which is returned, is larger."""
        if not self.sharded:
            return self.accelerator.clip_grad_norm_(parameters, max_norm)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return norm

    def whole(self, state: State) -> State:
        """`state` with every tensor of it in full, of which ranks may have parts: on rank 0; the others have nothing in
        their place. Every rank must call it where weights are sharded."""
        found: State = sharding.whole(state, self.is_main) if self.sharded else state
        return found

    @property
    def step_was_skipped(self) -> bool:
        """Whether the optimizer left out its step: float16 found a gradient that is not finite."""
        return self.accelerator.optimizer_step_was_skipped

    def decide(self, make: Callable[[], Decision]) -> Decision:
        """What `make` returns on rank 0, on every rank: for what is read from a disk that ranks may see differently.

        An InputError that it raises is raised on every rank. Every rank must call it; the others wait.
        """
        if self.world == 1:
            return make()
        found: list[Decision | InputError | None] = [None]
        if self.is_main:
            try:
                found = [make()]
            except InputError as error:
                found = [error]
        (decision,) = broadcast_object_list(found)
        if isinstance(decision, InputError):
            raise decision
        return decision

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on any rank. They ask each other on the CPU, so a GPU's queue is not waited for."""
        if self.world == 1:
            return flag
        if self._gloo is None:
            self._gloo = torch.distributed.new_group(backend="gloo")
        value = torch.tensor(int(flag))
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX, group=self._gloo)
        return bool(value)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of all ranks' `values`, of any shape."""
        return self.accelerator.reduce(values, "sum") if self.world > 1 else values

    def gather(self, items: list[Item]) -> list[Item]:
        """The items of all ranks, rank by rank."""
        return gather_object(items)

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.accelerator.wait_for_everyone()

    def end(self) -> None:
        """Take leave of the other ranks."""
        self.accelerator.end_training()
