"""RUN/README.md: the model card, as the hub expects it. Made from the run's folder alone."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from safetensors import safe_open

from texdiff.files import write_atomic
from texdiff.models.exports import LAYOUT_NET
from texdiff.models.lora_files.metadata import XL
from texdiff.training.run import Run
from texdiff.training.samples import read_samples
from texdiff.uv.layout.position import SCALE

# Licences that the hub knows by these names, of those that textures come under; others are "other" there.
_HUB_LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "unlicense", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0"}
_HUB_LICENSES |= {"cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"}
_HUB_LICENSES |= {"cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "openrail"}
_SETTINGS = {
    "lora": ("rank", "alpha"),
    "layout": ("maps", "dropout"),
    "data": ("resolution", "background"),
    "mask": ("downsample", "reduction"),
    "noise": ("offset", "snr_gamma"),
    "optim": ("name", "learning_rate"),
    "run": ("max_train_steps", "seed"),
}


def write_card(run: Run, inpainting: bool = False) -> None:
    """Write RUN/README.md of the run's config.yaml, metrics.jsonl, about.json and newest samples; `inpainting`: for a
    base of that kind."""
    config = run.settings()
    about = run.provenance()["dataset"]
    images = _newest_images(run)
    family = _family(run)
    front = _front_matter(config, about, images, family).to_yaml(line_break="\n")
    parts = [f"---\n{front}\n---", _opening(config, about), _gallery(images), _use(config, images, family, inpainting)]
    parts += [_layout(run, config), _metrics(run), _void(run), _training(config), _data(about)]
    write_atomic(run.model_card_file, ("\n\n".join(part for part in parts if part) + "\n").encode(), durable=False)


def _family(run: Run) -> str:
    """The hub's word for the base's family, by what was exported."""
    xl = False
    if run.pipeline_file.is_file():
        xl = "XL" in json.loads(run.pipeline_file.read_text("utf-8"))["_class_name"]
    elif run.lora_file.is_file():
        with safe_open(run.lora_file, "pt") as file:
            xl = (file.metadata() or {}).get("ss_base_model_version") == XL
    elif run.layout_net_folder.is_dir():
        said = json.loads((run.layout_net_folder / "config.json").read_text("utf-8"))
        xl = said.get("addition_embed_type") == "text_time"
    return "stable-diffusion-xl" if xl else "stable-diffusion"


def _front_matter(
    config: dict[str, Any], about: dict[str, Any], images: list[tuple[str, str]], family: str
) -> ModelCardData:
    train, dataset = config["model"]["train"], config["data"]["dataset"]
    names = [dataset] if isinstance(dataset, str) else [source["path"] for source in dataset]
    tags = [family, f"{family}-diffusers", "text-to-image", "diffusers", "diffusers-training"]
    return ModelCardData(
        base_model=_base(config),
        base_model_relation="finetune" if train == "full" else "adapter",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        inference=True,
        tags=[*tags, *([] if train == "full" else [train]), "uv-texture", "texture", "texdiff"],
        datasets=[name for name in names if _is_hub_id(name)] or None,
        instance_prompt=images[0][0] if images else None,
        widget=[{"text": prompt, "output": {"url": path}} for prompt, path in images] or None,
        **_license(about.get("licenses", {})),
    )


def _license(licenses: dict[str, int]) -> dict[str, str]:
    """The data's licence in the hub's words; several, or one that it doesn't know, are "other" with their names."""
    names = [name.lower() for name in licenses]
    if len(names) == 1 and names[0] in _HUB_LICENSES:
        return {"license": names[0]}
    named = "-and-".join(re.sub(r"[^a-z0-9.]+", "-", name).strip("-") for name in names) or "unknown"
    return {"license": "other", "license_name": named[:100], "license_link": "README.md"}


def _base(config: dict[str, Any]) -> str:
    """The base as others can find it: a hub id whole, of a folder its last name alone."""
    name = str(config["model"]["pretrained_model_name_or_path"])
    return name if _is_hub_id(name) else Path(name).name


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".") and not Path(name).exists()


def _opening(config: dict[str, Any], about: dict[str, Any]) -> str:
    lora = config["lora"]
    adapters = (
        f"LoRA of rank {lora['rank']}" if lora.get("init") is None else f"LoRA, begun as {Path(lora['init']).name},"
    )
    kind = {"lora": adapters, "controlnet": "ControlNet", "full": "Fine-tuned U-Net"}[config["model"]["train"]]
    size = f" {about['textures']}" if "textures" in about else ""
    return (
        f"# UV texture atlases: {kind} for {plain(_base(config))}\n\n"
        f"{kind}, trained on{size} UV texture atlases with texdiff. Only texels that the UV map uses counted in the "
        "loss: the model draws what lands on a mesh, and leaves the void between islands to be filled."
    )


def _gallery(images: list[tuple[str, str]]) -> str:
    if not images:
        return ""
    rows = [f"| {plain(prompt)} | ![{plain(prompt)}]({path}) |" for prompt, path in images]
    return "\n".join(["## Samples", "", "| prompt | atlas |", "|---|---|", *rows])


def _use(config: dict[str, Any], images: list[tuple[str, str]], family: str, inpainting: bool) -> str:
    prompt = " ".join(images[0][0].split()) if images else "a wooden crate"
    base, train = _base(config), config["model"]["train"]
    layout = config.get("layout", {})
    net = "path/to/this/folder/controlnet" if train == "controlnet" else layout.get("init")
    source = json.dumps("path/to/this/folder" if train == "full" else base)
    version = "XL" if family == "stable-diffusion-xl" else ""
    kind = f"StableDiffusion{version}ControlNetPipeline" if net else "DiffusionPipeline"
    kind = f"StableDiffusion{version}InpaintPipeline" if inpainting else kind
    lines = ["## Use", "", "```python", f"from diffusers import {'ControlNetModel, ' if net else ''}{kind}"]
    lines += ["from diffusers.utils import load_image"] if net or inpainting else []
    if train != "full" and base == "nano":  # comes with texdiff, and is not on the hub
        lines += ["from texdiff.models.base import resolve_base"]
        source = 'resolve_base("nano")'
    where = f'{source}, subfolder="{LAYOUT_NET}"' if net == "nano" else json.dumps(net)
    lines += ["", f"net = ControlNetModel.from_pretrained({where})"] if net else [""]
    lines += [f"pipe = {kind}.from_pretrained({source}{', controlnet=net' if net else ''})"]
    lines += ['pipe.load_lora_weights("path/to/this/folder")'] if train == "lora" else []
    said = json.dumps(prompt, ensure_ascii=False) + (', image=load_image("map.png")' if net else "")
    if inpainting:
        said += ', image=load_image("partial.png"), mask_image=load_image("missing.png"), strength=1.0'
    lines += [f'pipe({said}).images[0].save("atlas.png")', "```", ""]
    models = "--model path/to/this/folder" if train == "full" else f"--model {shlex.quote(base)}"
    models += {"lora": " --lora path/to/this/folder", "controlnet": " --layout path/to/this/folder"}.get(train, "")
    models += " --complete partial.png" if inpainting else ""
    command = f"texdiff generate {models} --prompt {shlex.quote(prompt)} --mesh mesh.glb --output textured.glb"
    return "\n".join([*lines, "On a mesh, with texdiff:", "", "```", command, "```"])


def _layout(run: Run, config: dict[str, Any]) -> str:
    """What the map of the mesh has to look like, where there is a layout net."""
    layout = config.get("layout", {})
    if layout.get("maps", "none") == "none":
        return ""
    said = run.layout_maps()
    if layout["maps"] == "mask":
        shows = "White where the UV map uses the texture, black elsewhere."
    else:
        longest = f"{(1 - said['scale']) / 2:.3g} to {(1 + said['scale']) / 2:.3g}" if said else "0.05 to 0.95"
        shows = (
            "Where on the object each texel lies: x, y (up) and z as red, green and blue. The middle of the object's "
            f"bounding box is at 0.5, its longest side reaches from {longest}, and the void is 0 exactly."
        )
    lines = ["## The map of the mesh", "", f"{shows} Drawn at the output's size, at texel centres, without smoothing."]
    drawn_by_us = {layout.get("scale"), said.get("scale")} <= {None, SCALE}  # texdiff layout has no other scale
    if layout["maps"] == "mask" or drawn_by_us:
        size = config["data"]["resolution"]
        command = f"texdiff layout mesh.glb --kind {layout['maps']} --size {size} --output map.png"
        lines += ["", f"`{command}` draws it."]
    gains = [line["layout_gain"] for line in run.metrics() if isinstance(line.get("layout_gain"), float)]
    if gains:
        gain = f"With the map of another mesh the held-out error is {gains[-1]:.4f} larger than with a texture's own."
        lines += ["", gain]
    if config["model"]["train"] == "lora":
        lines += ["", f"Trained under the layout net {plain(str(layout['init']))}, unchanged."]
    return "\n".join(lines)


def _metrics(run: Run) -> str:
    """Held-out metrics before the first step, which are the base's own, and at the end."""
    found = [line for line in run.metrics() if "validation_loss" in line]
    if len(found) < 2 or found[0]["step"] != 0:
        return ""
    base, last = found[0], found[-1]
    columns = [base, *(line for line in found if line["step"] == run.best().get("step") != last["step"]), last]
    names = [name for name in base if all(isinstance(line.get(name), float) for line in columns)]
    names = [name for name in names if not name.startswith(("void_", "layout_gain"))]
    rows = [f"| {name.replace('_', ' ')} | {' | '.join(f'{line[name]:.4f}' for line in columns)} |" for name in names]
    heads = ["the base itself", *(f"after {line['step']} steps" for line in columns[1:])]
    return "\n".join(
        [
            "## Metrics",
            "",
            "Masked mean squared error of the prediction on held-out textures, on fixed noise over a fixed grid of "
            f"timesteps; lower is better.{_best(run)}",
            "",
            f"| | {' | '.join(heads)} |",
            "|---" * (len(heads) + 1) + "|",
            *rows,
        ]
    )


def _best(run: Run) -> str:
    best = run.best()
    if not best:
        return ""
    return (
        f" It was lowest after {best['step']} steps ({best['validation_loss']:.4f}): the weights of that step are in "
        "`best/`, those of the last beside this card."
    )


def _void(run: Run) -> str:
    """How much of the newest samples shows the void that the training textures had."""
    found = [line for line in run.metrics() if "void_on_surface" in line]
    if not found:
        return ""
    first, last = found[0], found[-1]
    before = f"; {first['void_on_surface']:.1%} before the first step" if first["step"] == 0 else ""
    return (
        f"Void on the surface: {last['void_on_surface']:.1%} of the covered texels of the samples show a flat colour "
        f"that the training textures' voids have ({last['void_on_surface_real']:.1%} of the real textures{before})."
    )


def _training(config: dict[str, Any]) -> str:
    found = [(f"{section}.{name}", config[section].get(name)) for section, names in _SETTINGS.items() for name in names]
    rows = [f"| {key} | {plain(str(value))} |" for key, value in found if value is not None]
    return "\n".join(["## Training", "", "`config.yaml` has every setting.", "", "| | |", "|---|---|", *rows])


def _data(about: dict[str, Any]) -> str:
    licenses = about.get("licenses", {})
    rows = [f"| {plain(name)} | {count} |" for name, count in licenses.items()] or ["| unknown | |"]
    covered = f" On average {about['coverage']:.1%} of a texture is mapped." if "coverage" in about else ""
    note = f"The textures that it was trained on come under these licences; the base has its own.{covered}"
    return "\n".join(["## Data and licence", "", note, "", "| licence | textures |", "|---|---|", *rows])


def _newest_images(run: Run) -> list[tuple[str, str]]:
    """(prompt, path in the run's folder) of the newest samples, at most four."""
    samples = read_samples(run)
    steps = run.sample_folders()
    if not steps:
        return []
    found = [(sample.prompt, steps[-1] / sample.file) for sample in samples]
    return [(prompt, path.relative_to(run.folder).as_posix()) for prompt, path in found if path.is_file()][:4]


def plain(text: str) -> str:
    """Text that stays text in Markdown, in a table's cell too."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))
