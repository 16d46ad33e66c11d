"""A Stable Diffusion pipeline, and the textures it samples: the same seed gives the same noise on any device."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Generator, Tensor

from texdiff.errors import InputError, one_line
from texdiff.models.base import PIPELINES, load_base  # first: it silences what diffusers says while it is imported

# isort: split
import diffusers
from diffusers import DDPMScheduler, DiffusionPipeline

from texdiff.models.prompts import PromptReading, read_prompts_as
from texdiff.models.stable_diffusion import quick_sampler


def inference_device() -> torch.device:
    """Where pipelines, and the networks that judge what they sample, run: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_pipeline(model: str, prediction_type: str | None = None, inpainting: bool = False) -> DiffusionPipeline:
    """The pipeline on the fastest device here: float32 on a CPU, bfloat16 or float16 on a GPU.

    One that a run trained reads prompts as it did then, by the config.yaml beside it.

    Raises:
        InputError: no such folder or hub id, not a Stable Diffusion pipeline, or files of it missing or damaged; one
            for inpainting, unless it may be.
    """
    base = load_base(model, prediction_type=prediction_type)
    kind, folder = base.index["_class_name"], base.configs
    if "Inpaint" in kind and not inpainting:
        raise InputError(f"{model}: is an inpainting base, which draws to what it is shown; use texdiff generate")
    variants = base.variants("unet")
    base.variant = None if "" in variants or not variants else variants[0]  # of weights that are there in halves alone
    base.check_scheduler()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries warn of each other's deprecations
            pipeline = getattr(diffusers, kind).from_pretrained(
                folder, variant=base.variant, feature_extractor=None, **PIPELINES[kind], **base.parts()
            )
            base.correct(pipeline.scheduler)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        hub = "" if Path(folder).is_dir() else ", or the hub cannot be reached"
        raise InputError(f"{model}: not a usable Stable Diffusion pipeline{hub} ({one_line(error)[:200]})") from None
    if type(pipeline.scheduler) is DDPMScheduler:
        # A base made for training often names DDPM, which wants all its 1,000 steps. A pipeline that names a quick
        # sampler of its own keeps it.
        pipeline.scheduler = quick_sampler(pipeline.scheduler)
    read_prompts_as(pipeline, _training_of(Path(folder)))
    device = inference_device()
    half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
    return pipeline.to(device, torch.float32 if device.type == "cpu" else half)


def _training_of(folder: Path) -> PromptReading:
    """How prompts were read in the run that trained the pipeline in a folder; as diffusers does where none did, or
    another program, whose file of that name is its own."""
    try:
        settings = yaml.safe_load((folder / "config.yaml").read_text("utf-8"))
        return PromptReading.of(settings["data"]["max_token_length"], settings["model"]["clip_skip"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, yaml.YAMLError):
        return PromptReading()


def sample(
    pipeline: DiffusionPipeline,
    prompt: str,
    seed: int = 0,
    num_inference_steps: int = 30,
    guidance_scale: float = 7.5,
) -> NDArray[np.uint8]:
    """One texture of the pipeline's own size: uint8 [H, W, 3], row 0 = top.

    Raises:
        InputError: the model gives numbers that are not finite.
    """
    return sample_batch(pipeline, [prompt], [seed], num_inference_steps, guidance_scale)[0]


class Sampling(NamedTuple):
    """How many denoising steps, the weight of the prompt, and what to stay away from."""

    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str = ""


def sample_batch(
    pipeline: DiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    negative_prompt: str = "",
    size: tuple[int, int] | None = None,
    **inputs: Any,
) -> list[NDArray[np.uint8]]:
    """A texture for each prompt and its seed, at once: uint8 [H, W, 3] each. `inputs` go to the pipeline as they are.

    `size` is (height, width) in pixels, multiples of a latent cell's; without, the pipeline's own. It is not for
    img2img, whose image has one. Raises InputError where the model gives numbers that are not finite.
    """
    inputs |= prompt_inputs(prompts, seeds, num_inference_steps, guidance_scale, negative_prompt)
    if "strength" not in inputs or "mask_image" in inputs:  # not img2img
        height, width = size or own_size(pipeline)
        cells = height // pipeline.vae_scale_factor, width // pipeline.vae_scale_factor
        noise = initial_noise(inputs["generator"], (pipeline.vae.config.latent_channels, *cells))
        inputs |= {"latents": noise.to(pipeline.device, pipeline.dtype), "height": height, "width": width}
    images = pipeline(output_type="np", **inputs).images  # float32 [B, H, W, 3] in [0, 1]
    return [to_bytes(image) for image in images]


def own_size(pipeline: DiffusionPipeline) -> tuple[int, int]:
    """(height, width) in pixels of what a pipeline draws where nothing else is said."""
    side: int = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    return side, side


def prompt_inputs(
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    negative_prompt: str = "",
) -> dict[str, Any]:
    """What a pipeline of any kind is given of prompts and their seeds."""
    return {
        "prompt": list(prompts),
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "negative_prompt": [negative_prompt] * len(prompts) if negative_prompt else None,
        "generator": [torch.Generator("cpu").manual_seed(seed) for seed in seeds],  # some samplers draw at every step
    }


def to_bytes(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Values in [0, 1] as those of an image. Raises InputError where they are not finite."""
    if not np.isfinite(image).all():
        raise InputError("the model gives NaN instead of an image: its weights (or the LoRA's) are broken")
    return np.round(image * 255).astype(np.uint8)


def initial_noise(generators: Sequence[Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 [B, *shape] on the CPU, from each generator its own.

    Always drawn in float32: in bfloat16 the same seed gives other noise on some processors, so that a GPU would sample
    another image than a CPU.
    """
    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])
