"""From a prompt to a texture: the atlas as a picture, or the mesh that wears it.

texdiff generate --model BASE --lora RUN --mesh MESH --prompt "..." --output FILE.glb
"""

import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from texdiff.errors import InputError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline


def generate(
    model: str,
    prompt: str,
    output: Path,
    lora: Path | None = None,
    mesh: Path | None = None,
    seed: int = 0,
    num_inference_steps: int = 30,
    guidance_scale: float = 7.5,
) -> None:
    """Draw one texture and write it, whole or not at all.

    Args:
        model: a Stable Diffusion pipeline: folder, hub id, full fine-tuning run folder, or `nano`.
        prompt: what to draw.
        output: `.png` for the atlas, `.glb` for the mesh wearing it.
        lora: run folder or `.safetensors` file to load on top of the model.
        mesh: wears the texture; needed for `.glb`. With `.png` its UV map says where the void is that gets filled.
        seed: of the first latents, drawn on the CPU: the same on any device.
        num_inference_steps: denoising steps, at least 1.
        guidance_scale: weight of the prompt in classifier-free guidance; 1 or less means without guidance.

    Raises:
        InputError: any of these cannot be used. Nothing is written then.
    """
    from texdiff.inference.apply import dress, encode_png, fill_void, read_wearer, write_whole
    from texdiff.inference.lora import add_lora, layer_names, lora_file

    # Everything that is quick to check comes before the weights are read.
    _check(output, mesh, seed, num_inference_steps, guidance_scale)
    wearer = read_wearer(mesh) if mesh is not None else None
    if lora is not None:
        layer_names(lora_file(lora))
    pipeline = load_pipeline(model)
    if lora is not None:
        changed, in_file = add_lora(pipeline, lora)
        left_out = f", {in_file - changed} of the file are not in this base" if changed < in_file else ""
        print(f"LoRA {lora}: {changed} layers{left_out}")
    texture = draw(pipeline, prompt, seed, num_inference_steps, guidance_scale)
    if wearer is not None:
        print(wearer.choice)
        texture = fill_void(wearer, texture)
    if wearer is not None and output.suffix.lower() == ".glb":
        write_whole(output, dress(wearer, texture))
    else:
        write_whole(output, encode_png(texture))
    print(f"wrote {output}")


def load_pipeline(model: str) -> "StableDiffusionPipeline":
    """The pipeline on the fastest device here: float32 on a CPU, bfloat16 or float16 on a GPU.

    Raises:
        InputError: no such folder or hub id, not a Stable Diffusion pipeline, or files of it missing or damaged.
    """
    import torch
    from safetensors import SafetensorError

    from texdiff.training.models import resolve_base  # first: it silences what diffusers says while it is imported

    from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline  # isort: skip

    folder = resolve_base(model)
    cuda = torch.cuda.is_available()
    half = torch.bfloat16 if cuda and torch.cuda.is_bf16_supported() else torch.float16
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the libraries warn of each other's deprecations
            pipeline = StableDiffusionPipeline.from_pretrained(
                folder,
                # Textures are no photographs: the checker costs a gigabyte and blackens pictures by mistake.
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hub = "" if Path(folder).is_dir() else ", or the hub cannot be reached"
        raise InputError(f"{model}: not a usable Stable Diffusion pipeline{hub} ({reason})") from None
    if type(pipeline.scheduler) is DDPMScheduler:
        # A base made for training often names DDPM, which wants all its 1,000 steps. DPM-Solver++ follows the
        # same schedule and gets there in 20 to 30. A pipeline that names a quick sampler of its own keeps it.
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    return pipeline.to("cuda", half) if cuda else pipeline.to("cpu", torch.float32)


def draw(
    pipeline: "StableDiffusionPipeline",
    prompt: str,
    seed: int = 0,
    num_inference_steps: int = 30,
    guidance_scale: float = 7.5,
) -> np.ndarray:
    """One texture of the pipeline's own size: uint8 [H, W, 3], row 0 = top.

    Raises:
        InputError: the model gives numbers that are not finite.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(seed)
    result = pipeline(
        prompt,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=generator,
        output_type="np",  # float32 [1, H, W, 3] in [0, 1]
    )
    picture = result.images[0]
    if not np.isfinite(picture).all():
        raise InputError("the model gives NaN instead of a picture: its weights (or the LoRA's) are broken")
    return np.round(picture * 255).astype(np.uint8)


def _check(output: Path, mesh: Path | None, seed: int, num_inference_steps: int, guidance_scale: float) -> None:
    if output.suffix.lower() not in (".png", ".glb"):
        raise InputError(f"--output {output}: must end in .png (atlas) or .glb (mesh wearing it)")
    if output.is_dir():
        raise InputError(f"--output {output}: is a folder; name a file")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--output {output}: {above} is no folder that can be written to; choose another")
    if output.suffix.lower() == ".glb" and mesh is None:
        raise InputError(f"--output {output}: a .glb needs --mesh, the mesh that wears the texture")
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed {seed}: must be at least 0 and less than 2^63")
    if num_inference_steps < 1:
        raise InputError(f"--num_inference_steps {num_inference_steps}: must be at least 1")
    if not math.isfinite(guidance_scale):
        raise InputError(f"--guidance_scale {guidance_scale}: must be a finite number")
