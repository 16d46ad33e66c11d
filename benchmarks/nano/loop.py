"""What the training programs of `nano` share: ranks, schedule, checkpoints.

Started by torchrun, every rank takes its own part of each batch and the gradients are averaged. On a busy CPU two
ranks of one thread each get further than one rank of two threads, which wait for each other at every operation.
"""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

OUT = Path("outputs/nano")


def start(threads: int) -> tuple[str, int, int]:
    """(device, rank, number of ranks); joins the other ranks where torchrun has started some."""
    torch.set_num_threads(threads)
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if ranks > 1:
        distributed.init_process_group("nccl" if device != "cpu" else "gloo")
    OUT.mkdir(parents=True, exist_ok=True)
    return device, rank, ranks


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace every rank's gradients by their mean over the ranks."""
    if not distributed.is_initialized():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 100 steps, then half a cosine down to zero."""
    return peak * min((step + 1) / 100, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1)))


def save(name: str, state: dict[str, Any]) -> None:
    """Write outputs/nano/NAME whole or not at all."""
    torch.save(state, OUT / f"{name}.part")
    os.replace(OUT / f"{name}.part", OUT / name)
