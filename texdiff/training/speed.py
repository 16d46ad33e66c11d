"""What makes a step faster, or smaller, and does not change what it computes."""

from typing import Any

import torch

from texdiff.config import RunConfig


def speed_up(unet: Any, run: RunConfig, device: torch.device) -> None:
    """Switch on for `unet`, a diffusers model, what `run` asks for; float32 products on a GPU take TF32.

    Attention needs no switch: torch's fused one is what diffusers takes. Nor does channels_last, which was measured
    to gain nothing on a CPU (docs/LOG.md).
    """
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if run.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if run.compile:
        unet.compile_repeated_blocks()  # the same block again and again, so that one is compiled and start-up is short
