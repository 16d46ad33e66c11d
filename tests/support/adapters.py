"""A denoiser with adapters that do something."""

import copy
from typing import Any

import torch

from texdiff.config import LoraConfig
from texdiff.models.trainable import add_lora


def with_lora(unet: Any, **settings: Any) -> Any:
    """A copy with adapters that do something."""
    tuned = copy.deepcopy(unet)
    add_lora(tuned, LoraConfig(**settings), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return tuned
