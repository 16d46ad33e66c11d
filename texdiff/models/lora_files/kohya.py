"""A LoRA in the layout of kohya's scripts, which ComfyUI and the WebUI read.

Layer a.b.c of the U-Net is called lora_unet_a_b_c, where Stable Diffusion XL's layers have the names of sgm.py; its
factors are lora_down [rank, in] and lora_up [out, rank], for a convolution [rank, in, k, k] and [out, rank, 1, 1]. What
a program adds to the layer's weight is alpha / rank * lora_up @ lora_down, where alpha is a number of its own beside
each layer's factors.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from texdiff.errors import InputError, one_line
from texdiff.models.lora_files.metadata import IMPLEMENTATIONS, XL
from texdiff.models.lora_files.safetensors_bytes import write_weights
from texdiff.models.lora_files.sgm import sgm_name
from texdiff.models.lora_files.strength import read_factors


def write_kohya(source: Path, output: Path) -> None:
    """Write the LoRA in a run's file to `output` in kohya's layout.

    Raises InputError where there is no such LoRA, and for DoRA: programs that read this layout take its magnitudes
    relative to different norms, so the file would not mean the same everywhere.
    """
    try:
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
        if "lora_adapter_metadata" not in metadata:
            raise ValueError("no alpha in its metadata")
        tensors, scales = read_factors(source)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{source}: not a LoRA that texdiff trained ({one_line(error)}); name a LoRA run") from None
    if output.suffix != ".safetensors":
        raise InputError(f"--output {output}: must end in .safetensors")
    if any("magnitude" in key for key in tensors):
        raise InputError(
            f"{source}: a DoRA, which programs that read kohya's layout apply in different ways; "
            "use it with diffusers, or train with lora.use_dora false"
        )
    kept = {key: value for key, value in metadata.items() if key.startswith(("ss_", "modelspec."))}
    kept |= {"format": "pt", "modelspec.implementation": IMPLEMENTATIONS["kohya"]}
    try:
        write_weights(output, kohya_tensors(tensors, scales, metadata.get("ss_base_model_version") == XL), kept)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); choose another") from None


def kohya_tensors(
    tensors: Mapping[str, Tensor], scales: Mapping[tuple[str, str, str], float], xl: bool
) -> dict[str, Tensor]:
    """The adapters that `read_factors` read under kohya's names, for `xl` those of Stable Diffusion XL, with alpha
    beside them."""
    renamed: dict[str, Tensor] = {}
    for (key, down, up), scale in scales.items():
        layer = key.removeprefix("unet.")
        stem = f"lora_unet_{(sgm_name(layer) if xl else layer).replace('.', '_')}"
        factor = tensors[f"{key}{down}weight"]
        renamed[f"{stem}.lora_down.weight"] = factor
        renamed[f"{stem}.lora_up.weight"] = tensors[f"{key}{up}weight"]
        renamed[f"{stem}.alpha"] = torch.tensor(scale * len(factor))
    return renamed
