"""Weights in the form that other programs load."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict

from texdiff.config import TrainingConfig
from texdiff.files import atomic_entries
from texdiff.models.base import Base, zero_snr_sampler
from texdiff.models.lora_files import LORA_FILE
from texdiff.models.lora_files.metadata import lora_metadata
from texdiff.models.lora_files.safetensors_bytes import write_weights
from texdiff.training.model_card import write_card
from texdiff.training.run.provenance import read_about


def export_lora(unet: UNet2DConditionModel, folder: Path, about: Mapping[str, str] | None = None) -> Path:
    """Write the adapters as `pipe.load_lora_weights(folder)` takes them: float32, diffusers' keys, and rank and
    alpha in the file's metadata, without which a loader would take alpha for the rank. `about` goes there too."""
    settings = unet.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, whose order differs between runs
    layers: dict[str, Any] = get_peft_model_state_dict(unet)
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


def assemble_pipeline(base: Base, unet: UNet2DConditionModel, zero_snr: bool = False) -> StableDiffusionPipeline:
    """The base's pipeline around `unet`, with the sampler that the base names; with `zero_snr` its schedule ends in
    noise alone, as that of the training does."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        base.source,
        revision=base.revision,
        variant=base.variant,
        unet=unet,
        vae=base.vae,
        text_encoder=base.text_encoder,
        tokenizer=base.tokenizer,
        safety_checker=None,
        requires_safety_checker=False,
    )
    if zero_snr:
        pipeline.scheduler = zero_snr_sampler(pipeline.scheduler)
    return pipeline


def export_pipeline(base: Base, unet: UNet2DConditionModel, folder: Path, zero_snr: bool = False) -> None:
    """Write the whole pipeline, so that `DiffusionPipeline.from_pretrained(folder)` loads it."""
    with atomic_entries(folder, last="model_index.json") as aside:
        assemble_pipeline(base, unet, zero_snr).save_pretrained(aside)


def export(config: TrainingConfig, base: Base, unet: UNet2DConditionModel, run: Path, accelerator: Accelerator) -> None:
    """Write what was trained to the run's folder, and its model card; the other ranks wait for that."""
    if accelerator.is_main_process:
        if config.model.train == "lora":
            textures = read_about(run)["dataset"]["textures"]
            export_lora(unet, run, lora_metadata(config, unet, base.scheduler.config.prediction_type, textures))
        else:
            export_pipeline(base, unet, run, config.noise.rescale_betas_zero_snr)
        write_card(run)
    accelerator.wait_for_everyone()
