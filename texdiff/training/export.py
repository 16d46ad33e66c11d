"""Weights in the form that other programs load."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import get_peft_model_state_dict

from texdiff.config import TrainingConfig
from texdiff.training.models import Base

LORA_FILE = "pytorch_lora_weights.safetensors"


def export_lora(unet: UNet2DConditionModel, folder: Path) -> Path:
    """Write the adapters as `pipe.load_lora_weights(folder)` takes them: float32, diffusers' keys, and rank and
    alpha in the file's metadata, without which a loader would take alpha for the rank."""
    settings = unet.peft_config["default"].to_dict()
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, whose order differs between runs
    layers: dict[str, Any] = get_peft_model_state_dict(unet)
    converted = convert_state_dict_to_diffusers(layers)
    # The converter renames attention layers alone; where others have adapters too its result is a mixture, of which
    # diffusers' loader drops the renamed ones. PEFT's own names load as well.
    if not any("lora_A" in name for name in converted):
        layers = converted
    StableDiffusionPipeline.save_lora_weights(
        save_directory=folder,
        unet_lora_layers={name: tensor.detach().float().cpu() for name, tensor in layers.items()},
        unet_lora_adapter_metadata=settings,
        weight_name=LORA_FILE,
    )
    (folder / LORA_FILE).chmod(0o644)  # it comes readable by its owner alone, and is made to be passed on
    return folder / LORA_FILE


def assemble_pipeline(base: Base, unet: UNet2DConditionModel) -> StableDiffusionPipeline:
    """The base's pipeline around `unet`, with the sampler that the base names."""
    return StableDiffusionPipeline.from_pretrained(
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


def export_pipeline(base: Base, unet: UNet2DConditionModel, folder: Path) -> None:
    """Write the whole pipeline, so that `DiffusionPipeline.from_pretrained(folder)` loads it."""
    assemble_pipeline(base, unet).save_pretrained(folder)


def export(config: TrainingConfig, base: Base, unet: UNet2DConditionModel, run: Path, accelerator: Accelerator) -> None:
    """Write what was trained to the run's folder; the other ranks wait for that."""
    if accelerator.is_main_process:
        if config.model.train == "lora":
            export_lora(unet, run)
        else:
            export_pipeline(base, unet, run)
    accelerator.wait_for_everyone()
