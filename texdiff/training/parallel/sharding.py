"""FSDP2: each rank keeps a part of every trained weight, of its gradient and of the optimizer's state.

torch's own `fully_shard` does it, on CPUs as on GPUs: accelerate takes no notice of its own switch on CPU ranks.
Weights are gathered block by block for a pass and forgotten after it. Gradients are averaged in float32, whatever the
precision of the pass, and after every micro-batch: left for a step's last one, each rank would keep those of the entire
model. What goes into a model is not cast, so times and sizes stay as exact as they are.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.utils._pytree import tree_map

from texdiff.config import TrainingConfig
from texdiff.errors import InputError

_BLOCKS = {"BasicTransformerBlock", "ResnetBlock2D"}  # what is gathered at once; the rest of the model is one more
_TRUE = ("1", "true", "yes", "on", "y", "t")
_WHERE = "accelerate's configuration"


def is_asked_for() -> bool:
    """Whether accelerate's configuration names FSDP2. Raises InputError for what of FSDP there is not."""
    if not _is_true("ACCELERATE_USE_FSDP"):
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise InputError(f"{_WHERE}: fsdp_version must be 2 (got {version}); set it, or leave FSDP out")
    if _is_true("FSDP_OFFLOAD_PARAMS"):
        raise InputError(f"{_WHERE}: fsdp_offload_params is not supported; set it to false and use more processes")
    if _is_true("FSDP_ACTIVATION_CHECKPOINTING"):
        raise InputError(
            f"{_WHERE}: fsdp_activation_checkpointing is not for texdiff; set it to false, and "
            "run.gradient_checkpointing to true"
        )
    # Else transformers would leave the text encoders of all ranks but the first empty.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    return True


def check(config: TrainingConfig, mixed_precision: str, device: torch.device) -> None:
    """Raise InputError for settings that sharded weights cannot be trained with, and for a PyTorch that has them on
    GPUs alone."""
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise InputError(f"{_WHERE}: FSDP on CPUs needs a newer PyTorch than {torch.__version__}; leave FSDP out")
    if config.model.train != "full":
        raise InputError(
            f"model.train {config.model.train}: FSDP2 is for full fine-tuning, and this trains few weights; leave FSDP "
            "out, which is faster, or set model.train to full"
        )
    if config.optim.name != "adamw":
        raise InputError(f"optim.name: {config.optim.name} cannot step sharded weights; use adamw, or leave FSDP out")
    if mixed_precision == "fp16":
        raise InputError("mixed_precision: fp16 is not supported with FSDP; use bf16 or no")
    if config.run.channels_last:
        raise InputError("run.channels_last: weights of another layout cannot be sharded; set it to false")


def shard(model: nn.Module, device: torch.device, world: int, dtype: torch.dtype) -> None:
    """Leave this rank's part of the weights of `model`, a diffusers model, on `device`. They keep their names; passes
    are made with weights of `dtype`."""
    setting: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world,)),
        "reshard_after_forward": True,  # the rest of the model too: else validation's weights would stay for training
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=None if dtype == torch.float32 else dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        ),
    }
    for block in [module for module in model.modules() if type(module).__name__ in _BLOCKS]:
        fully_shard(block, **setting)
    fully_shard(model, **setting)


def own_part(parameter: Tensor) -> Tensor:
    """This rank's part of a parameter, in the same memory: the parameter itself where it is not sharded."""
    if not isinstance(parameter, DTensor):
        return parameter
    return parameter.to_local().detach().requires_grad_(parameter.requires_grad)


def part_of(full: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a tensor of `parameter`'s shape, which every rank has in full."""
    if not isinstance(parameter, DTensor):
        return full
    [placement], mesh = parameter.placements, parameter.device_mesh
    assert isinstance(placement, Shard), "fully_shard shards over one dimension of ranks"
    parts = full.detach().chunk(mesh.size(), placement.dim)
    nothing = full.detach().narrow(placement.dim, 0, 0)  # of a tensor shorter than there are ranks
    mine = [*parts, *[nothing] * (mesh.size() - len(parts))][mesh.get_local_rank()]
    return mine.to(parameter.device, copy=True)  # a view would keep all of it


def as_sharded(part: Tensor, parameter: Tensor) -> Tensor:
    """The tensor of which this rank has `part`, as it has of `parameter`."""
    if not isinstance(parameter, DTensor):
        return part
    where = parameter.device_mesh, parameter.placements
    return DTensor.from_local(part, *where, run_check=False, shape=parameter.shape, stride=parameter.stride())


def optimizer_state(state: dict[str, Any], parameters: Iterable[Tensor]) -> dict[str, Any]:
    """An optimizer's state of full tensors, as the optimizer of these parameters has it."""

    def sharded(value: object, parameter: Tensor) -> object:
        like_it = isinstance(value, Tensor) and value.shape == parameter.shape
        return as_sharded(part_of(value, parameter), parameter) if like_it else value  # type: ignore[arg-type]

    of = list(parameters)
    by_place = {
        place: {name: sharded(value, of[place]) for name, value in values.items()}
        for place, values in state["state"].items()
    }
    return state | {"state": by_place}


def whole(state: Any, keep: bool) -> Any:
    """`state` with its sharded tensors in full, on the CPU, or with `keep` False nothing in their place. One after
    another, so that a device needs room for the largest alone. Every rank must call it."""

    def full(value: object) -> object:
        if not isinstance(value, DTensor):
            return value
        found: Tensor = value.full_tensor().detach()
        return found.cpu() if keep else None

    return tree_map(full, state)


def _is_true(name: str) -> bool:
    return os.environ.get(name, "false").lower() in _TRUE
