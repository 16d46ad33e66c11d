"""A LoRA file onto a pipeline, with the checks that keep a LoRA that does not fit from passing in silence."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from texdiff.errors import InputError, one_line
from texdiff.models.lora_files.find import lora_file
from texdiff.models.lora_files.strength import layers_of, read_layers

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def layer_names(file: Path) -> set[str]:
    """The layers that the LoRA file has weights for, by their names in the file.

    Raises:
        InputError: it is not a safetensors file, it holds no LoRA, or one that diffusers would load wrongly.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as weights:
            keys = list(weights.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: not a readable safetensors file ({one_line(error)[:200]})") from None
    if any(key.endswith("dora_scale") for key in keys):
        # diffusers drops these and applies the rest, which is another LoRA than the one that was trained.
        raise InputError(f"{file}: DoRA weights in kohya's layout, which diffusers cannot load; merge it into the base")
    return layers_of(keys, file)


def add_lora(pipeline: "DiffusionPipeline", path: Path) -> tuple[int, int]:
    """Load the LoRA at `path` (run folder or file, of texdiff or another trainer) into the pipeline's models.

    Each layer has the strength that it was trained with, as strength.py reads it. The sampler starts from noise
    alone, and prompts are read, as the file says that it was trained (`follow_training`).

    Returns:
        (layers now changed, layers in the file).

    Raises:
        InputError: it cannot be read, or does not fit this base.
    """
    from diffusers.utils import logging

    file = lora_file(path)
    names = layer_names(file)
    tensors, scale = read_layers(file)
    adapter = f"lora_{sum(map(len, pipeline.get_list_adapters().values()))}"
    misfit = f"{file}: does not fit this base"
    verbosity = logging.get_verbosity()
    try:
        with warnings.catch_warnings():
            # PEFT warns about each layer that is not in the base; they are counted below.
            warnings.simplefilter("ignore")
            logging.set_verbosity(logging.CRITICAL)  # it prints what it raises
            pipeline.load_lora_weights(tensors, adapter_name=adapter)
    except (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
        # diffusers and PEFT raise any of these for foreign layer names and for shapes of another base.
        raise InputError(f"{misfit} ({one_line(error)[:200]}); use the base that it was trained on") from None
    finally:
        logging.set_verbosity(verbosity)
    changed = _set_scale(pipeline, adapter, scale)
    if changed == 0:
        raise InputError(f"{misfit} (none of its {len(names)} layers is in it); use the base that it was trained on")
    follow_training(pipeline, file)
    return changed, len(names)


def follow_training(pipeline: "DiffusionPipeline", file: Path) -> None:
    """Let the pipeline read prompts, and its sampler begin, as the LoRA in a file was trained, where that says so:
    in kohya's keys, whose `ss_clip_skip` counts the last layer as 1 and means nothing for Stable Diffusion XL."""
    from safetensors import safe_open

    from texdiff.models.prompts import PromptReading, is_xl, read_prompts_as, reading_of
    from texdiff.models.stable_diffusion import zero_snr_sampler

    with safe_open(file, framework="pt") as weights:
        known = weights.metadata() or {}
    if known.get("ss_zero_terminal_snr") == "True" and pipeline.scheduler.config.prediction_type == "v_prediction":
        pipeline.scheduler = zero_snr_sampler(pipeline.scheduler)
    length, skip = (known.get(key, "") for key in ("ss_max_token_length", "ss_clip_skip"))
    now = reading_of(pipeline)
    reading = PromptReading(
        chunks=PromptReading.of(int(length), None).chunks if length in ("75", "77", "150", "225") else now.chunks,
        clip_skip=max(int(skip) - 1, 0) or None if skip.isdecimal() and not is_xl(pipeline) else now.clip_skip,
    )
    try:
        read_prompts_as(pipeline, reading)
    except InputError:
        raise InputError(
            f"{file}: was trained with clip skip {skip}, more than this base's text encoder has layers; use the base "
            "that it was trained on"
        ) from None


def _set_scale(pipeline: "DiffusionPipeline", adapter: str, scale: float) -> int:
    """Give every layer of the adapter this scale, and count them. diffusers guesses one from ranks and names."""
    from peft.tuners.lora import LoraLayer

    models = (pipeline.components.get(name) for name in ("unet", "text_encoder", "text_encoder_2"))
    modules = (module for model in models if model is not None for module in model.modules())
    layers = [module for module in modules if isinstance(module, LoraLayer) and adapter in module.scaling]
    for layer in layers:
        layer.scaling[adapter] = scale
        layer.lora_alpha[adapter] = scale * layer.r[adapter]  # from which PEFT computes it again
    return len(layers)
