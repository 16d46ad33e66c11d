"""RUN/README.md: the model card, as the hub expects it. Made from the run's folder alone."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from safetensors import safe_open

from texdiff.files import write_atomic
from texdiff.models.lora_files.metadata import XL
from texdiff.training.run import Run
from texdiff.training.samples import read_samples

# Licences that the hub knows by these names, of those that textures come under; others are "other" there.
_HUB_LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "unlicense", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0"}
_HUB_LICENSES |= {"cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"}
_HUB_LICENSES |= {"cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "openrail"}
_SETTINGS = {
    "lora": ("rank", "alpha"),
    "data": ("resolution", "background"),
    "mask": ("downsample", "reduction"),
    "noise": ("offset", "snr_gamma"),
    "optim": ("name", "learning_rate"),
    "run": ("max_train_steps", "seed"),
}


def write_card(run: Run) -> None:
    """Write RUN/README.md of the run's config.yaml, metrics.jsonl, about.json and newest samples."""
    config = run.settings()
    about = run.provenance()["dataset"]
    images = _newest_images(run)
    front = _front_matter(config, about, images, _family(run)).to_yaml(line_break="\n")
    parts = [f"---\n{front}\n---", _opening(config, about), _gallery(images), _use(config, images)]
    parts += [_metrics(run), _void(run), _training(config), _data(about)]
    write_atomic(run.model_card_file, ("\n\n".join(part for part in parts if part) + "\n").encode(), durable=False)


def _family(run: Run) -> str:
    """The hub's word for the base's family, by what was exported."""
    xl = False
    if run.pipeline_file.is_file():
        xl = "XL" in json.loads(run.pipeline_file.read_text("utf-8"))["_class_name"]
    elif run.lora_file.is_file():
        with safe_open(run.lora_file, "pt") as file:
            xl = (file.metadata() or {}).get("ss_base_model_version") == XL
    return "stable-diffusion-xl" if xl else "stable-diffusion"


def _front_matter(
    config: dict[str, Any], about: dict[str, Any], images: list[tuple[str, str]], family: str
) -> ModelCardData:
    lora, dataset = config["model"]["train"] == "lora", config["data"]["dataset"]
    tags = [family, f"{family}-diffusers", "text-to-image", "diffusers", "diffusers-training"]
    return ModelCardData(
        base_model=_base(config),
        base_model_relation="adapter" if lora else "finetune",
        library_name="diffusers",
        pipeline_tag="text-to-image",
        inference=True,
        tags=[*tags, *(["lora"] if lora else []), "uv-texture", "texture", "texdiff"],
        datasets=[dataset] if _is_hub_id(dataset) else None,
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
    kind = f"LoRA of rank {lora['rank']}" if lora.get("init") is None else f"LoRA, begun as {Path(lora['init']).name},"
    if config["model"]["train"] != "lora":
        kind = "Fine-tuned U-Net"
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


def _use(config: dict[str, Any], images: list[tuple[str, str]]) -> str:
    prompt = " ".join(images[0][0].split()) if images else "a wooden crate"
    base, lora = _base(config), config["model"]["train"] == "lora"
    source = json.dumps(base if lora else "path/to/this/folder")
    lines = ["## Use", "", "```python", "from diffusers import DiffusionPipeline"]
    if lora and base == "nano":  # comes with texdiff, and is not on the hub
        lines += ["from texdiff.models.base import resolve_base"]
        source = 'resolve_base("nano")'
    lines += ["", f"pipe = DiffusionPipeline.from_pretrained({source})"]
    lines += ['pipe.load_lora_weights("path/to/this/folder")'] if lora else []
    lines += [f'pipe({json.dumps(prompt, ensure_ascii=False)}).images[0].save("atlas.png")', "```", ""]
    models = f"--model {shlex.quote(base)} --lora path/to/this/folder" if lora else "--model path/to/this/folder"
    command = f"texdiff generate {models} --prompt {shlex.quote(prompt)} --mesh mesh.glb --output textured.glb"
    return "\n".join([*lines, "On a mesh, with texdiff:", "", "```", command, "```"])


def _metrics(run: Run) -> str:
    """Held-out metrics before the first step, which are the base's own, and at the end."""
    found = [line for line in run.metrics() if "validation_loss" in line]
    if len(found) < 2 or found[0]["step"] != 0:
        return ""
    base, last = found[0], found[-1]
    names = [name for name in base if isinstance(base[name], float) and isinstance(last.get(name), float)]
    names = [name for name in names if not name.startswith("void_")]
    rows = [f"| {name.replace('_', ' ')} | {base[name]:.4f} | {last[name]:.4f} |" for name in names]
    return "\n".join(
        [
            "## Metrics",
            "",
            "Masked mean squared error of the prediction on held-out textures, on fixed noise over a fixed grid of "
            "timesteps; lower is better.",
            "",
            f"| | the base itself | after {last['step']} steps |",
            "|---|---|---|",
            *rows,
        ]
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
