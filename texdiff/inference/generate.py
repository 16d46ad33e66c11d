"""From prompts to textures: atlases as pictures, or the mesh that wears them.

texdiff generate --model BASE --lora RUN --mesh MESH --prompt "..." --output FILE.glb
"""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from texdiff.errors import InputError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline
    from torch import Generator, Tensor

STRENGTH = 0.6  # of restyling where none is said: new surfaces, in the old one's colours and places


def generate(
    model: str,
    prompts: Sequence[str],
    output: Path,
    lora: Path | None = None,
    mesh: Path | None = None,
    init_image: Path | None = None,
    strength: float | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 4,
    num_inference_steps: int = 30,
    guidance_scale: float = 7.5,
) -> list[Path]:
    """Draw a texture for every prompt with every seed, and write each as soon as it is drawn, whole or not at all.

    Args:
        model: a Stable Diffusion pipeline: folder, hub id, full fine-tuning run folder, or `nano`.
        prompts: what to draw.
        output: `.png` for the atlas, `.glb` for the mesh wearing it. Several are numbered: NAME-00.png, NAME-01.png.
        lora: run folder or `.safetensors` file to load on top of the model.
        mesh: wears the texture; needed for `.glb`. With `.png` its UV map says where the void is that gets filled.
        init_image: atlas to restyle. With a mesh, texels that its UV map does not touch stay as they are in a `.png`.
        strength: how much of it changes, above 0 to 1. Given without init_image, the mesh's own texture is restyled.
        seeds: of the first latents, drawn on the CPU: the same on any device.
        batch_size: textures that are drawn at once; but for rounding, none depends on the others.
        num_inference_steps: denoising steps, at least 1; restyling takes the last of them, as many as strength says.
        guidance_scale: weight of the prompt in classifier-free guidance; 1 or less means without guidance.

    Returns:
        The files written, prompt by prompt, and for each seed by seed.

    Raises:
        InputError: any of these cannot be used. Nothing is written then.
    """
    from texdiff.inference.img2img import read_initial
    from texdiff.inference.retexture import dress, encode_png, fill_void, read_wearer, write_output
    from texdiff.models.lora_files.load import add_lora, layer_names, lora_file

    # Everything that is quick to check comes before the weights are read.
    restyles = init_image is not None or strength is not None
    strength = STRENGTH if strength is None else strength
    _check_numbers(prompts, seeds, batch_size, num_inference_steps, guidance_scale, strength)
    jobs = [(prompt, seed) for prompt in prompts for seed in seeds]
    files = numbered(output, len(jobs))
    _check_output(output, files, mesh)
    wearer = read_wearer(mesh) if mesh is not None else None
    initial = read_initial(init_image, wearer) if restyles else None
    if lora is not None:
        layer_names(lora_file(lora))
    pipeline = load_pipeline(model)
    if lora is not None:
        changed, in_file = add_lora(pipeline, lora)
        left_out = f", {in_file - changed} of the file are not in this base" if changed < in_file else ""
        print(f"LoRA {lora}: {changed} layers{left_out}")
    for line in cut_prompts(pipeline, prompts):
        print(line)
    if wearer is not None:
        print(wearer.choice)
    for start in range(0, len(jobs), batch_size):
        now = jobs[start : start + batch_size]
        if len(jobs) > batch_size:
            pipeline.set_progress_bar_config(desc=f"{start + 1}-{start + len(now)} of {len(jobs)}")
        words, numbers = [prompt for prompt, _ in now], [seed for _, seed in now]
        if initial is None:
            drawn = draw_batch(pipeline, words, numbers, num_inference_steps, guidance_scale)
        else:
            drawn = initial.restyle(pipeline, words, numbers, strength, num_inference_steps, guidance_scale)
        for texture, file, (prompt, seed) in zip(drawn, files[start:], now, strict=False):
            is_glb = file.suffix.lower() == ".glb"
            if wearer is not None and (is_glb or initial is None):
                texture = fill_void(wearer, texture)
            write_output(file, dress(wearer, texture) if wearer is not None and is_glb else encode_png(texture))
            print(f"wrote {file}" + (f" (seed {seed}: {prompt})" if len(jobs) > 1 else ""))
    return files


def numbered(output: Path, count: int) -> list[Path]:
    """The file itself for one texture, NAME-00, NAME-01, ... beside it for several."""
    if count == 1:
        return [output]
    digits = max(2, len(str(count - 1)))
    return [output.with_stem(f"{output.stem}-{number:0{digits}d}") for number in range(count)]


def cut_prompts(pipeline: "StableDiffusionPipeline", prompts: Sequence[str]) -> list[str]:
    """A line for each prompt of which the text encoder reads the beginning only."""
    limit = pipeline.tokenizer.model_max_length
    lines = []
    for prompt in prompts:
        ids = pipeline.tokenizer(prompt, verbose=False).input_ids
        if len(ids) > limit:
            kept = pipeline.tokenizer.decode(ids[: limit - 1], skip_special_tokens=True)
            lines.append(f"the prompt has {len(ids) - 2} tokens of which {limit - 2} are read: ... {kept[-40:]}")
    return lines


def load_pipeline(model: str) -> "StableDiffusionPipeline":
    """The pipeline on the fastest device here: float32 on a CPU, bfloat16 or float16 on a GPU.

    Raises:
        InputError: no such folder or hub id, not a Stable Diffusion pipeline, or files of it missing or damaged.
    """
    import torch
    from safetensors import SafetensorError

    from texdiff.models.base import resolve_base  # first: it silences what diffusers says while it is imported

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
) -> NDArray[np.uint8]:
    """One texture of the pipeline's own size: uint8 [H, W, 3], row 0 = top.

    Raises:
        InputError: the model gives numbers that are not finite.
    """
    return draw_batch(pipeline, [prompt], [seed], num_inference_steps, guidance_scale)[0]


def draw_batch(
    pipeline: "StableDiffusionPipeline",
    prompts: Sequence[str],
    seeds: Sequence[int],
    num_inference_steps: int,
    guidance_scale: float,
    **inputs: object,
) -> list[NDArray[np.uint8]]:
    """A texture for each prompt and its seed, at once: uint8 [H, W, 3] each. `inputs` go to the pipeline as they are.

    Raises:
        InputError: the model gives numbers that are not finite.
    """
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    if "image" not in inputs:
        side = pipeline.unet.config.sample_size
        noise = draw_noise(generators, (pipeline.unet.config.in_channels, side, side))
        inputs["latents"] = noise.to(pipeline.device, pipeline.dtype)
    result = pipeline(
        prompt=list(prompts),
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        generator=generators,  # some samplers draw at every step
        output_type="np",  # float32 [B, H, W, 3] in [0, 1]
        **inputs,
    )
    if not np.isfinite(result.images).all():
        raise InputError("the model gives NaN instead of a picture: its weights (or the LoRA's) are broken")
    return list(np.round(result.images * 255).astype(np.uint8))


def draw_noise(generators: Sequence["Generator"], shape: Sequence[int]) -> "Tensor":
    """Standard normal noise, float32 [B, *shape] on the CPU, from each generator its own.

    Always drawn in float32: in bfloat16 the same seed gives other noise on some processors, so that a GPU would draw
    another picture than a CPU.
    """
    import torch

    return torch.stack([torch.randn(tuple(shape), generator=generator) for generator in generators])


def _check_output(output: Path, files: Sequence[Path], mesh: Path | None) -> None:
    if output.suffix.lower() not in (".png", ".glb"):
        raise InputError(f"--output {output}: must end in .png (atlas) or .glb (mesh wearing it)")
    if taken := [file for file in files if file.is_dir()]:
        raise InputError(f"--output {taken[0]}: is a folder; name a file")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--output {output}: {above} is no folder that can be written to; choose another")
    if output.suffix.lower() == ".glb" and mesh is None:
        raise InputError(f"--output {output}: a .glb needs --mesh, the mesh that wears the texture")


def _check_numbers(
    prompts: Sequence[str],
    seeds: Sequence[int],
    batch_size: int,
    num_inference_steps: int,
    guidance_scale: float,
    strength: float,
) -> None:
    if not prompts or not seeds:
        raise InputError("--prompt and --seed: give at least one of each")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise InputError(f"--seed {seed}: must be at least 0 and less than 2^63")
    if batch_size < 1:
        raise InputError(f"--batch_size {batch_size}: must be at least 1")
    if num_inference_steps < 1:
        raise InputError(f"--num_inference_steps {num_inference_steps}: must be at least 1")
    if not math.isfinite(guidance_scale):
        raise InputError(f"--guidance_scale {guidance_scale}: must be a finite number")
    if not 0 < strength <= 1:
        raise InputError(f"--strength {strength}: must be above 0 and at most 1")
    if int(num_inference_steps * strength) < 1:
        raise InputError(f"--strength {strength}: of {num_inference_steps} steps it leaves none; give more of either")
