"""`texdiff generate`: from prompts to textures, as images or on a mesh."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from texdiff.errors import InputError

STRENGTH = 0.6  # of img2img where none is said: new surfaces, in the old one's colours and places
REFINE_STRENGTH = 0.5  # what a composition lacks of detail is drawn, and what it shows stays in its place


def generate(
    *,
    model: str,
    prompt: str | list[str],
    output: str | Path,
    lora: str | Path | None = None,
    mesh: str | Path | None = None,
    material: str | None = None,
    init_image: str | Path | None = None,
    strength: float | None = None,
    complete: str | Path | None = None,
    seed: int | list[int] = 0,
    batch_size: int = 4,
    num_inference_steps: int = 30,
    guidance_scale: float = 7.5,
    negative_prompt: str = "",
    size: int | str | None = None,
    refine_strength: float | None = None,
    layout: str | None = None,
    layout_scale: float = 1.0,
    layout_start: float = 0.0,
    layout_end: float = 1.0,
    seams: Literal["close", "keep"] = "close",
    unwrap: bool = False,
    prediction_type: Literal["epsilon", "v_prediction", "sample"] | None = None,
) -> list[Path]:
    """Sample textures from prompts, as images or on a mesh.

    Each is written as soon as it is sampled, prompt by prompt, and for each seed by seed. Returns the files; raises
    InputError where any of the arguments cannot be used, and writes nothing then.

    Args:
        model: Stable Diffusion: a pipeline's folder, a hub id, a .safetensors file with all of its parts, the folder of
            a full fine-tuning run, or nano.
        prompt: What to draw; several give several textures.
        output: A .png (the atlas), or a .glb, .gltf or .obj (the mesh with the new texture; the latter two with files
            beside them); of several textures each gets a number.
        lora: Folder of a LoRA run (of one that is not finished, its newest checkpoint is taken), of a checkpoint or its
            best, a .safetensors file in the layout of diffusers or kohya, or a PEFT adapter's folder; or the address of
            any of these in object storage.
        mesh: Mesh that gets the texture (needed but for .png); its UV map says where the void is that gets filled.
        material: Name of the material whose texture is drawn, on all of the mesh that shows the same one. Default: that
            on the most surface.
        init_image: Atlas to start from (img2img); in a .png what the mesh's UV map leaves out stays as it is there.
        strength: How much of it changes, above 0 to 1 (default 0.6); alone, it starts from the mesh's own texture.
        complete: Atlas whose transparent texels are missing: they are drawn, by an inpainting base, and all others stay
            as they are; with a mesh those that its UV map uses.
        seed: Seed of the noise that a texture is made from (default 0); several give several textures a prompt.
        batch_size: Textures sampled at once.
        num_inference_steps: Denoising steps; img2img takes the last of them, as many as strength says.
        guidance_scale: Weight of the prompt (classifier-free guidance); 1 is without guidance.
        negative_prompt: What to stay away from; needs guidance.
        size: Side of the texture in pixels, or 2048x1024 for a width of 2048. What is larger than the model draws at
            once is drawn at the model's own size first, then refined in overlapping windows; what is smaller is scaled
            down from there; an init_image is redrawn in such windows. Default: the model's own size, or that of
            init_image.
        refine_strength: How much of a larger texture the windows draw anew, 0 to 1 (default 0.5); at 0 it is scaled up.
        layout: Layout net that hears the mesh's map: a run of model.train controlnet, a folder or hub id of a
            ControlNet, or none. Default: the one that the LoRA was trained under.
        layout_scale: Strength of the layout net; at 0 it changes nothing.
        layout_start: Share of the steps, 0 to 1, after which it begins.
        layout_end: Share of the steps, 0 to 1, after which it ends.
        seams: Where the mesh's UV map is cut, bring the colours of both sides together, smoothly inside the islands, or
            keep them as they are drawn.
        unwrap: Give what of the mesh has no UV coordinates some, by xatlas (pip install 'texdiff[unwrap]'), and the
            texture.
        prediction_type: What the model predicts, where its scheduler does not say it or a single file cannot.
    """
    prompts = [prompt] if isinstance(prompt, str) else prompt
    seeds = [seed] if isinstance(seed, int) else seed
    output = Path(output)
    # Everything that is quick to check comes before the libraries and the weights are read.
    from_image = init_image is not None or strength is not None
    if complete is not None and (from_image or size is not None):
        raise InputError("--complete: not with --init_image, --strength or --size; it keeps what the atlas has")
    one_step = 1 / num_inference_steps if num_inference_steps >= 1 else 1.0
    strength = max(STRENGTH, one_step) if strength is None else strength
    if refine_strength is not None and (size is None or from_image):
        reason = "has no effect without --size" if size is None else "an image is redrawn at --strength; leave it out"
        raise InputError(f"--refine_strength: {reason}")
    refine_strength = max(REFINE_STRENGTH, one_step) if refine_strength is None else refine_strength
    _check_numbers(prompts, seeds, batch_size, num_inference_steps, guidance_scale, strength, refine_strength)
    if material is not None and (mesh is None or unwrap):
        raise InputError("--material: " + ("not with --unwrap" if unwrap else "needs --mesh, the mesh that has it"))
    if unwrap and mesh is None:
        raise InputError("--unwrap: needs --mesh, the mesh to unwrap")
    if negative_prompt and guidance_scale <= 1:
        raise InputError("--negative_prompt: has no effect without guidance; raise --guidance_scale above 1")
    jobs = [(words, number) for words in prompts for number in seeds]
    files = numbered_files(output, len(jobs))
    _check_output(output, files, mesh)
    _check_layout(layout_scale, layout_start, layout_end)

    from texdiff.inference.complete import nothing_known, read_partial
    from texdiff.inference.img2img import read_initial_image
    from texdiff.inference.large import parse_size
    from texdiff.inference.retexture import check_retexture, encode_png, write_mesh, write_output
    from texdiff.inference.target import finish_texture, read_seams, read_target
    from texdiff.models.exports import local_run
    from texdiff.models.lora_files.find import lora_file
    from texdiff.models.lora_files.load import add_lora, layer_names

    shape = None if size is None else parse_size(size)
    target = read_target(Path(mesh), unwrap, material) if mesh is not None else None
    # What is wrong with the mesh file, beyond its textures, shows when it is written: better now than after sampling.
    for line in check_retexture(target, output) if target and output.suffix.lower() != ".png" else []:
        print(line)
    # What stays of an atlas stays to the bit, so its seams are left alone.
    edges = read_seams(target) if target and seams == "close" and complete is None else None
    initial = read_initial_image(Path(init_image) if init_image else None, target, shape) if from_image else None
    partial = read_partial(Path(complete), target) if complete is not None else None
    lora = None if lora is None else local_run(lora)
    weights = None if lora is None else lora_file(lora)
    if weights is not None:
        layer_names(weights)

    from texdiff.inference.drawing import Drawing
    from texdiff.inference.layout_net import choose_layout, load_layout
    from texdiff.inference.sampler import Sampling, load_pipeline, own_size
    from texdiff.models.inpainting import is_inpainting
    from texdiff.models.prompts import PromptReading, reading_of

    net, drawn_without = choose_layout(layout, weights, target is not None)
    pipeline = load_pipeline(model, prediction_type, inpainting=True)
    if is_inpainting(pipeline):
        if from_image or size is not None:
            raise InputError(f"{model}: is an inpainting base; give --complete, not --init_image, --strength or --size")
        partial = partial or nothing_known(target, own_size(pipeline))
    elif partial is not None:
        raise InputError(f"--complete: needs an inpainting base, which {model} is not")
    if weights is not None:
        changed, in_file = add_lora(pipeline, weights)
        left_out = f", {in_file - changed} of the file are not in this base" if changed < in_file else ""
        print(f"LoRA {lora}: {changed} layers{left_out}")
    if (reading := reading_of(pipeline)) != PromptReading():
        print(f"prompts are read as in training: {reading}")
    for line in reading.left_out(pipeline.tokenizer, [*prompts, negative_prompt]):
        print(line)
    if target is not None:
        print(target.choice)
        if edges is not None and len(edges.length):
            print(f"seams: both sides of {len(edges.length)} cut edges are brought together (--seams keep leaves them)")
    if drawn_without:
        print(drawn_without)
    layout_net = None
    if net is not None:
        layout_net, line = load_layout(net, pipeline, weights, layout_scale, layout_start, layout_end)
        print(line)
    sampling = Sampling(num_inference_steps, guidance_scale, negative_prompt)
    drawing = Drawing(pipeline, sampling, target, layout_net, initial, strength, shape, refine_strength, partial)
    print(*drawing.lines, sep="\n", end="\n" if drawing.lines else "")
    for start in range(0, len(jobs), batch_size):
        now = jobs[start : start + batch_size]
        if len(jobs) > batch_size:
            drawing.pipeline.set_progress_bar_config(desc=f"{start + 1}-{start + len(now)} of {len(jobs)}")
        textures = drawing.draw([words for words, _ in now], [number for _, number in now])
        for texture, file, (words, number) in zip(textures, files[start:], now, strict=False):
            is_mesh = file.suffix.lower() != ".png"
            if target is not None:
                texture = finish_texture(target, texture, edges, fill_void=is_mesh or initial is None)
            if target is not None and is_mesh:
                write_mesh(target, texture, file)
            else:
                write_output(file, encode_png(texture))
            print(f"wrote {file}" + (f" (seed {number}: {words})" if len(jobs) > 1 else ""))
    return files


def numbered_files(output: Path, count: int) -> list[Path]:
    """The file itself for one texture, NAME-00, NAME-01, ... beside it for several."""
    if count == 1:
        return [output]
    digits = max(2, len(str(count - 1)))
    return [output.with_stem(f"{output.stem}-{number:0{digits}d}") for number in range(count)]


def _check_output(output: Path, files: Sequence[Path], mesh: str | Path | None) -> None:
    kind = output.suffix.lower()
    if kind not in (".png", ".glb", ".gltf", ".obj"):
        raise InputError(f"--output {output}: must end in .png (the atlas) or .glb, .gltf or .obj (the mesh with it)")
    if taken := [file for file in files if file.is_dir()]:
        raise InputError(f"--output {taken[0]}: is a folder; name a file")
    above = next(folder for folder in output.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"--output {output}: {above} is not a folder that can be written to; choose another")
    if kind != ".png" and mesh is None:
        raise InputError(f"--output {output}: a {kind} needs --mesh, the mesh that gets the texture")


def _check_layout(scale: float, start: float, end: float) -> None:
    if not math.isfinite(scale):
        raise InputError(f"--layout_scale must be a finite number (got {scale})")
    if not 0 <= start < end <= 1:
        raise InputError(
            f"--layout_start must be at least 0 and below --layout_end, which is at most 1 (got {start} and {end})"
        )


def _check_numbers(
    prompts: Sequence[str],
    seeds: Sequence[int],
    batch_size: int,
    num_inference_steps: int,
    guidance_scale: float,
    strength: float,
    refine_strength: float,
) -> None:
    if not prompts or not seeds:
        raise InputError("--prompt and --seed: give at least one of each")
    for seed in seeds:
        if not 0 <= seed < 2**63:
            raise InputError(f"--seed must be at least 0 and less than 2^63 (got {seed})")
    if batch_size < 1:
        raise InputError(f"--batch_size must be at least 1 (got {batch_size})")
    if num_inference_steps < 1:
        raise InputError(f"--num_inference_steps must be at least 1 (got {num_inference_steps})")
    if not math.isfinite(guidance_scale):
        raise InputError(f"--guidance_scale must be a finite number (got {guidance_scale})")
    if not 0 < strength <= 1:
        raise InputError(f"--strength must be above 0 and at most 1 (got {strength})")
    if int(num_inference_steps * strength) < 1:
        raise InputError(f"--strength {strength}: leaves none of {num_inference_steps} steps; raise either")
    if not 0 <= refine_strength <= 1:
        raise InputError(f"--refine_strength must be at least 0 and at most 1 (got {refine_strength})")
    if refine_strength and int(num_inference_steps * refine_strength) < 1:
        raise InputError(
            f"--refine_strength {refine_strength}: leaves none of {num_inference_steps} steps; raise either"
        )
