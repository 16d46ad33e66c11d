"""A run's metrics beside its base's: `texdiff evaluate RUN --dataset DATASET`, written to RUN/evaluation.json.

Only texels that land on the mesh count. Base and run start from the same noise, and meet the same textures.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from texdiff.config import LayoutConfig
from texdiff.data.mesh_index import find_mesh
from texdiff.errors import InputError, one_line
from texdiff.evaluation.layout_gain import layout_gain
from texdiff.evaluation.metrics.clip_score import ClipScore
from texdiff.evaluation.metrics.distribution import Floats, Interval, fid, kid, kid_difference
from texdiff.evaluation.metrics.features import DEFAULT, Extractor, features, load_extractor, perceptual_distance
from texdiff.evaluation.metrics.image import Images, psnr, ssim
from texdiff.evaluation.metrics.on_mesh import OnMeshes, on_meshes
from texdiff.evaluation.sampler import STRENGTH, EvaluationSampler
from texdiff.evaluation.textures import Textures, read_evaluation_textures
from texdiff.files import write_atomic
from texdiff.inference.sampler import inference_device
from texdiff.models.family import load_family
from texdiff.models.lora_files.find import lora_file
from texdiff.models.lora_files.load import add_lora
from texdiff.render.void import void_on_surface
from texdiff.training.run import Run
from texdiff.training.voids import void_colours

Metrics = dict[str, Any]

_LEAST = 3  # images in a set that KID is taken of


def evaluate(
    run: Path,
    dataset: str,
    *,
    feature_model: str = DEFAULT,
    clip: str | None = None,
    num_images: int = 16,
    guidance_scale: float = 7.5,
) -> Metrics:
    """All metrics, as they are written to RUN/evaluation.json; see `texdiff evaluate --help` for the arguments.

    Raises:
        InputError: RUN has trained nothing yet, the dataset or a model cannot be read, or a number makes no sense.
    """
    # On a GPU float32 is to mean float32, so that metrics do not depend on the machine.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if num_images < _LEAST:
        raise InputError(f"--num_images must be at least {_LEAST}, for KID (got {num_images})")
    settings = _settings(run)
    lora = lora_file(run) if settings["model"]["train"] == "lora" else None
    device = inference_device()
    extractor, clip_score = load_extractor(feature_model, device), ClipScore(clip, device) if clip else None
    notes: list[str] = []
    maps = settings.get("layout", {}).get("maps", "none")
    held_out, references = read_evaluation_textures(dataset, settings["data"], notes, maps)
    wanted = held_out.repeated(num_images)
    restored, made, gain = _sample(run, lora, dataset, settings, guidance_scale, held_out, wanted)
    if maps != "none" and gain is None:
        notes.append("the layout gain is left out: it takes two held-out textures with different maps")

    metrics: Metrics = {
        "run": str(run),
        "lora": None if lora is None else str(lora),
        "base": settings["model"]["pretrained_model_name_or_path"],
        "dataset": dataset,
        "held_out": len(held_out),
        "references": len(references),
        "num_images": num_images,
        "num_inference_steps": settings["validation"]["num_inference_steps"],
        "guidance_scale": guidance_scale,
        "strength": STRENGTH,
        "resolution": settings["data"]["resolution"],
        "seed": settings["run"]["seed"],
        "features": extractor.name,
        "layout_gain": gain,
        "reconstruction": {who: _closeness(images, held_out, extractor) for who, images in restored.items()},
    }
    real = features(references.images, references.masks, extractor, progress=True)
    drawn = {who: features(one.images, one.masks, extractor, progress=True) for who, one in made.items()}
    metrics["atlases"] = _distances(drawn, real)
    metrics["renders"], metrics["seams"], on_mesh = _on_meshes(wanted, made, references, extractor, notes)
    metrics["void_on_surface"] = _void(run, wanted, made, notes)
    metrics["prompt_agreement"] = None
    if clip_score:
        metrics["prompt_agreement"] = {
            "atlases": {who: clip_score(one.images, one.prompts) for who, one in made.items()},
            "renders": {
                who: clip_score(np.stack(one.views), [wanted.prompts[i] for i in one.numbers])
                for who, one in on_mesh.items()
            },
        }
    else:
        notes.append("the CLIP score is left out: name a CLIP with --clip")
    for kind in ("atlases", "renders"):
        if metrics[kind] and metrics[kind]["difference"]["kid_low"] <= 0 <= metrics[kind]["difference"]["kid_high"]:
            notes.append(f"{kind}: base and run cannot be told apart by KID at this size; raise --num_images")
    metrics["notes"] = notes
    write_atomic(Run(run).evaluation_file, json.dumps(metrics, indent=1, ensure_ascii=False).encode(), durable=False)
    return metrics


def _settings(run: Path) -> Metrics:
    try:
        settings = Run(run).settings()
        for section, key in (("model", "train"), ("data", "resolution"), ("run", "seed"), ("validation", "prompts")):
            settings[section][key]
    except (LookupError, TypeError) as error:
        raise InputError(f"{run}: not a run's folder ({one_line(error)}); name the output_dir of a run") from None
    return settings


def _sample(
    run: Path,
    lora: Path | None,
    dataset: str,
    settings: Metrics,
    guidance_scale: float,
    held_out: Textures,
    wanted: Textures,
) -> tuple[dict[str, Images], dict[str, Textures], Metrics | None]:
    """Held-out textures as the VAE, the base and the run reconstruct them; new ones of base and run; layout gain.

    The base of a LoRA that was trained under a layout net is the base under that net."""
    restored: dict[str, Images] = {}
    made: dict[str, Textures] = {}
    gain = None
    chosen, train, layout = settings["model"], settings["model"]["train"], settings.get("layout", {})
    reads = {"max_token_length": settings["data"].get("max_token_length", 77), "clip_skip": chosen.get("clip_skip")}
    overrides = {key: chosen.get(key) for key in ("prediction_type", "vae")}  # which a trained pipeline has in it
    for who in ("base", "trained"):
        family = (
            load_family(str(run), **reads)
            if who == "trained" and train == "full"
            else load_family(
                chosen["pretrained_model_name_or_path"], chosen["revision"], chosen["variant"], **reads, **overrides
            )
        )
        if family.hiding is not None:
            raise InputError(f"{run}: is of an inpainting base, which draws to what it is shown; see the run's samples")
        net = None
        if held_out.layouts is not None and (who == "trained" or train == "lora"):
            own = {"init": str(run), "scale": None} if train == "controlnet" else {}
            net = family.layout_net(LayoutConfig(**{name: (layout | own)[name] for name in ("maps", "init", "scale")}))
        sampler = EvaluationSampler(
            family,
            settings["data"]["resolution"],
            settings["validation"]["num_inference_steps"],
            guidance_scale,
            settings["run"]["seed"],
            net,
        )
        if who == "base":
            restored["vae"] = sampler.encode_decode(held_out.images)
        elif lora is not None:
            add_lora(sampler.pipeline, lora)
        if who == "trained" and net is not None:
            gain = layout_gain(sampler.pipeline, family, settings, dataset)
        old, new = (None, None) if net is None else (held_out.layouts, wanted.layouts)
        restored[who] = sampler.reconstruct(held_out.images, held_out.prompts, f"{who}: reconstructing", old)
        made[who] = wanted.with_images(sampler.generate(wanted.prompts, f"{who}: sampling", new))
    return restored, made, gain


def _closeness(images: Images, targets: Textures, extractor: Extractor) -> Metrics:
    """Means over the textures, inside their masks."""
    known = (targets.images, targets.masks)
    return {
        "psnr": float(psnr(images, *known).mean()),
        "ssim": float(ssim(images, *known).mean()),
        "perceptual_distance": float(perceptual_distance(images, *known, extractor).mean()),
    }


def _distances(made: Mapping[str, Sequence[Floats] | Floats], real: Sequence[Floats] | Floats) -> Metrics:
    """KID and FID to the features of real textures, and the difference that the run makes to KID."""
    metrics: Metrics = {who: _interval(kid(one, real)) | {"fid": fid(one, real)} for who, one in made.items()}
    return metrics | {"difference": _interval(kid_difference(made["trained"], made["base"], real))}


def _void(run: Path, real: Textures, made: dict[str, Textures], notes: list[str]) -> Metrics | None:
    """Mean share of the covered texels, and of the mesh's surface, that shows a common colour of the training textures'
    voids; `own` is that of the real textures whose captions were drawn."""
    colours = void_colours(Run(run))
    if not colours:
        notes.append("void on the surface is left out: the training textures have no void of a common colour")
        return None
    shares: Metrics = {"colours": [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours]}
    for who, one in {"own": real, **made}.items():
        rows = list(zip(one.images, one.masks, one.densities, strict=True))
        known = [(image, mask, density) for image, mask, density in rows if density is not None]
        shares[who] = {
            "texels": float(np.mean([void_on_surface(image, mask, colours) for image, mask, _ in rows])),
            "mesh": float(np.mean([void_on_surface(*row[:2], colours, row[2]) for row in known])) if known else None,
        }
    return shares


def _interval(kid: Interval) -> Metrics:
    return {"kid": kid.mean, "kid_low": kid.low, "kid_high": kid.high}


def _on_meshes(
    wanted: Textures, made: dict[str, Textures], references: Textures, extractor: Extractor, notes: list[str]
) -> tuple[Metrics | None, Metrics | None, dict[str, OnMeshes]]:
    """Set distances between renders, seam errors (the dataset's own beside them), and the renders themselves."""
    found = {name: find_mesh(name) for name in dict.fromkeys([*wanted.names, *references.names])}
    uses = {name: use for name, use in found.items() if use is not None}
    if not uses:
        notes.append("renders and seams are left out: no mesh that the dataset names is still there")
        return None, None, {}
    sets = [one.images for one in made.values()]
    drawn = dict(zip(made, on_meshes(wanted.names, sets, uses, extractor, "on meshes"), strict=True))
    (own,) = on_meshes(references.names, [references.images], uses, extractor, "references on meshes")
    seams = {"own": own.seams.metrics()} | {who: one.seams.metrics() for who, one in drawn.items()}
    fewest = min(len(own.features), *(len(one.features) for one in drawn.values()))
    if fewest < _LEAST:
        notes.append(f"set distances of renders are left out: {fewest} textures have a mesh, and KID needs {_LEAST}")
        return None, seams, {who: one for who, one in drawn.items() if one.views}
    return _distances({who: one.features for who, one in drawn.items()}, own.features), seams, drawn
