"""What makes a step faster, or smaller, and does not change what it computes beyond rounding.

benchmarks/gpu_switches.py measures them one by one and together; recorded graphs, which bring most, are on where
nothing stands in their way.
"""

from typing import Any

import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.models.family import Conditioning
from texdiff.models.trainable import Trainable
from texdiff.training.parallel import Parallel


class _GroupNorm(nn.GroupNorm):
    """As its parent, in the precision of its input; statistics are float32 inside the kernel whatever it is."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class _LayerNorm(nn.LayerNorm):
    """As its parent, in the precision of its input; statistics are float32 inside the kernel whatever it is."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def norms_in_input_precision(unet: nn.Module) -> None:
    """Let the normalisation layers of `unet` stay in half precision where their input is.

    Autocast would widen input and output to float32, which doubles the memory that the backward pass keeps of them, for
    values that the next layer narrows again.
    """
    for module in unet.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = _GroupNorm
        elif type(module) is nn.LayerNorm and module.elementwise_affine and module.bias is not None:
            module.__class__ = _LayerNorm


def adapters_in_input_precision(unet: nn.Module) -> None:
    """Let adapters take their input as it is: PEFT widens it to the float32 of their weights, and autocast narrows it
    again, with a copy kept for the backward pass. Outside of autocast such a model cannot be called in half precision.
    """
    for module in unet.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def record_graphs(trainable: Trainable, batch_size: int, textures: LatentDataset, dtype: torch.dtype) -> None:
    """Record the denoiser's forward and backward pass, in training mode, as CUDA graphs, and replay them from now on: a
    small batch is over sooner than Python can launch its kernels one by one.

    It is on the GPU; its weights must be written in place from now on. Other modes and batch sizes run as before.
    """
    device = next(trainable.parameters()).device
    zeros = torch.zeros(batch_size, *textures.latent_shape, device=device, dtype=dtype)
    t = torch.zeros(batch_size, device=device, dtype=torch.long)
    batch = textures.batch([0] * batch_size).to(device, dtype)
    inputs = trainable.family.denoiser_inputs(zeros, t, Conditioning(prompt=batch.prompt, known=batch.known))
    tensors, names = tree_flatten(inputs)
    denoiser: Any = trainable.denoiser
    recorded, as_before = _OfTensors(denoiser, names), denoiser.forward
    # What autocast has narrowed is kept until its block ends, which may not be between recording and replaying.
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
        torch.cuda.make_graphed_callables(recorded, tuple(tensors))

    def forward(*inputs: Any, **by_name: Any) -> Any:
        if denoiser.training:
            return recorded(*tree_leaves(by_name))
        return as_before(*inputs, **by_name)

    denoiser.forward = forward


class _OfTensors(nn.Module):
    """A denoiser as a function of tensors alone, which is what can be recorded."""

    def __init__(self, denoiser: nn.Module, names: TreeSpec) -> None:
        super().__init__()
        self.denoiser, self.names = denoiser, names

    def forward(self, *tensors: Tensor) -> Any:
        return self.denoiser(**tree_unflatten(tensors, self.names))


def speed_up(trainable: Trainable, config: TrainingConfig, parallel: Parallel, textures: LatentDataset) -> Trainable:
    """Switch on for the denoiser, a diffusers model in training mode whose adapters are there already, and for a layout
    net beside it, what `config.run` asks for; returns the same module.

    Attention needs no switch: torch's fused one is what diffusers takes.
    """
    models: Any = trainable.models
    run, device, dtype = config.run, parallel.device, parallel.dtype
    for model in models:
        if run.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        if run.compile:  # the same block again and again, so that one is compiled and start-up is short
            model._repeated_blocks = trainable.denoiser._repeated_blocks  # a ControlNet has the same ones
            model.compile_repeated_blocks()
    if device.type != "cuda":
        return trainable
    # Not beside encoders that work at every visit: the setting is the whole program's, and theirs is float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.data.cache != "off"
    for model in models:
        if run.channels_last:
            model.to(memory_format=torch.channels_last)
        if run.low_precision_norms and dtype != torch.float32:
            norms_in_input_precision(model)
        if run.low_precision_adapters and dtype != torch.float32:
            adapters_in_input_precision(model)
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    can_be = alone and not run.compile and not config.against_cuda_graphs()
    if can_be if run.cuda_graphs is None else run.cuda_graphs:
        record_graphs(trainable.to(device), run.train_batch_size, textures, dtype)
    return trainable
