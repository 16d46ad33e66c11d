"""How strongly each layer of a LoRA file acts: what is added to a layer's weight is scale * up @ down.

Files say it in four ways. kohya: a tensor `alpha` beside each layer's factors, scale = alpha / rank. diffusers: the
metadata `lora_adapter_metadata`, with an alpha for all and `alpha_pattern` for some layers. PEFT: the same in a file
beside the weights. None of these: 1. The rank is that of the layer's factors, whatever settings say of it.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from texdiff.errors import InputError, one_line

PEFT_NAME, PEFT_CONFIG, PEFT_PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."

# What stands between a layer's name and `weight`, of both factors: PEFT's, diffusers' older ones, kohya's.
_FACTORS = (
    (".lora_A.", ".lora_B."),
    (".lora.down.", ".lora.up."),
    (".lora_linear_layer.down.", ".lora_linear_layer.up."),
    ("_lora.down.", "_lora.up."),
    (".lora_down.", ".lora_up."),
)
_OTHERS = (".alpha", "_lora.alpha", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")


def layers_of(keys: list[str], file: Path) -> set[str]:
    """The layers that these keys of a LoRA file are about, by their names in it.

    Raises InputError where there are none, and for keys of anything but low-rank factors and DoRA's magnitudes.
    """
    layers: set[str] = set()
    strange = []
    for key in keys:
        marks = [mark for pair in _FACTORS for mark in pair if mark in key]
        marks += [mark for mark in _OTHERS if key.endswith(mark)]
        if marks:
            layers.add(key.split(marks[0])[0])
        else:
            strange.append(key)
    if not layers:
        raise InputError(f"{file}: no LoRA weights in it")
    if strange:
        raise InputError(
            f"{file}: {strange[0]} is not part of a LoRA, nor are {len(strange) - 1} others; merge it into the base "
            "with the program that made it"
        )
    return layers


def read_layers(file: Path) -> tuple[dict[str, Tensor], float]:
    """The file's tensors under diffusers' or kohya's names, without alphas, and the one scale for all layers.

    The scale is the most frequent one; where a layer has another, its `up` is multiplied by the ratio, in float32.
    Raises InputError as `read_factors` does.
    """
    tensors, scales = read_factors(file)
    common = Counter(scales.values()).most_common(1)[0][0] if scales else 1.0
    if common == 0:
        common = 1.0
    for (layer, _, up), scale in scales.items():
        for key in (f"{layer}{up}weight", f"{layer}{up}bias"):
            if scale != common and key in tensors:
                tensors[key] = tensors[key].float() * (scale / common)
    return {_new_name(key): tensor.float() for key, tensor in tensors.items()}, common


def read_factors(file: Path) -> tuple[dict[str, Tensor], dict[tuple[str, str, str], float]]:
    """The file's tensors under diffusers' or kohya's names, without alphas; and each layer's scale, by its name and
    what stands between that and `weight` in the names of `down` and `up`.

    Raises InputError where a factor has no partner, an alpha is not a number, or the settings cannot be read.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as weights:
        metadata = weights.metadata() or {}
        tensors = {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118
    if all(key.startswith(PEFT_PREFIX) for key in tensors):
        tensors = {_component(key.removeprefix(PEFT_PREFIX)): tensor for key, tensor in tensors.items()}
        settings = {f"{part}.{key}": v for part in ("unet", "text_encoder") for key, v in _peft_config(file).items()}
    else:
        settings = _json(metadata.get("lora_adapter_metadata") or "{}", file)
    alphas = {key: tensors.pop(key) for key in [*tensors] if key.endswith(".alpha")}
    scales: dict[tuple[str, str, str], float] = {}
    for key in tensors:
        for down, up in _FACTORS:
            if down in key and key.endswith(".weight"):
                layer = key.split(down)[0]
                if f"{layer}{up}weight" not in tensors:
                    raise InputError(f"{file}: {layer} has one factor alone; the file is damaged")
                scales[layer, down, up] = _scale(layer, tensors[key].shape[0], alphas, settings, file)
    return tensors, scales


def _scale(layer: str, rank: int, alphas: Mapping[str, Tensor], settings: Mapping[str, Any], file: Path) -> float:
    given = next((alphas[key] for key in (f"{layer}.alpha", f"{layer}_lora.alpha") if key in alphas), None)
    try:
        if given is not None:
            alpha = float(given.to(torch.float64).reshape(()))
        else:
            part, _, name = layer.partition(".")
            alpha = _alpha(name, {key: settings.get(f"{part}.{key}") for key in ("lora_alpha", "alpha_pattern")}, rank)
        if not math.isfinite(alpha):
            raise ValueError(f"{alpha} is not a finite number")
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise InputError(f"{file}: the alpha of {layer} cannot be read ({one_line(error)[:200]})") from None
    by_root = given is None and settings.get(f"{layer.partition('.')[0]}.use_rslora") is True
    return alpha / (math.sqrt(rank) if by_root else rank)


def _alpha(name: str, settings: Mapping[str, Any], rank: int) -> float:
    """Of a layer by its name in the model. PEFT's rule: the first pattern that the name ends in, else the alpha of
    all; a file that has neither means the rank."""
    from peft.utils.other import get_pattern_key

    pattern = settings["alpha_pattern"] or {}
    alpha = pattern.get(get_pattern_key(pattern.keys(), name), settings["lora_alpha"])
    return float(rank if alpha is None else alpha)


def _new_name(key: str) -> str:
    """diffusers reads its older names of factors for the U-Net alone, PEFT's for both models."""
    for down, up in _FACTORS[1:3]:
        key = key.replace(down, _FACTORS[0][0]).replace(up, _FACTORS[0][1])
    return key


def _component(name: str) -> str:
    """PEFT saves one model, whose layers' names say which it is."""
    text = name.startswith(("text_model.", "encoder.layers.", "embeddings."))
    return f"{'text_encoder' if text else 'unet'}.{name}"


def _peft_config(file: Path) -> dict[str, Any]:
    path = file.parent / PEFT_CONFIG
    if not path.is_file():
        raise InputError(f"{file}: {PEFT_CONFIG} is missing beside it, which has its alpha; put it there")
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None
    settings = _json(text, path)
    if settings.get("peft_type", "LORA") != "LORA":
        raise InputError(f"{path}: a {settings['peft_type']} adapter, not a LoRA; merge it into the base")
    return settings


def _json(text: str, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: its settings cannot be read ({one_line(error)[:200]})") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}: its settings are not a JSON object")
    return found
