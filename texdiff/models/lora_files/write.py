"""Adapters of a denoiser as a LoRA file in diffusers' layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict

from texdiff.models.lora_files import LORA_FILE
from texdiff.models.lora_files.safetensors_bytes import write_weights


def write_lora(denoiser: Any, folder: Path, about: Mapping[str, str] | None = None) -> Path:
    """Write the adapters as `pipe.load_lora_weights(folder)` takes them: float32, diffusers' keys, and rank and
    alpha in the file's metadata, without which a loader would take alpha for the rank. `about` goes there too."""
    settings = denoiser.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, whose order differs between runs
    layers: dict[str, Any] = get_peft_model_state_dict(denoiser)
    converted = convert_state_dict_to_diffusers(layers)
    # The converter renames attention layers alone; where others have adapters too its result is a mixture, of which
    # diffusers' loader drops the renamed ones. PEFT's own names load as well.
    if not any("lora_A" in name for name in converted):
        layers = converted
    adapter = json.dumps({f"unet.{key}": value for key, value in settings.items()}, indent=2, sort_keys=True)
    write_weights(
        folder / LORA_FILE,
        {f"unet.{name}": tensor.detach().float() for name, tensor in layers.items()},
        {"format": "pt", "lora_adapter_metadata": adapter} | dict(about or {}),
    )
    return folder / LORA_FILE
