"""A run's figures beside its base's: `texdiff evaluate RUN --dataset DATASET`, written to RUN/evaluation.json.

Only texels that land on the mesh count. Base and run start from the same noise, and meet the same textures.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from texdiff.data.mesh_index import find_mesh
from texdiff.errors import InputError
from texdiff.evaluation.metrics.clip_score import PromptAgreement
from texdiff.evaluation.metrics.distribution import Floats, Interval, fid, kid, kid_difference
from texdiff.evaluation.metrics.extractors import DEFAULT, Extractor, load_extractor
from texdiff.evaluation.metrics.features import Pictures, features, perceptual_distance
from texdiff.evaluation.metrics.image import psnr, ssim
from texdiff.evaluation.metrics.on_mesh import OnMeshes, on_meshes
from texdiff.evaluation.sampler import STRENGTH, EvaluationModel
from texdiff.evaluation.textures import Textures, read_evaluation_data
from texdiff.files import write_atomic
from texdiff.models.base import load_base
from texdiff.models.lora_files.load import add_lora

FILE = "evaluation.json"
Figures = dict[str, Any]

_LEAST = 3  # pictures in a set that KID is taken of


def evaluate(
    run: Path,
    dataset: str,
    *,
    feature_model: str = DEFAULT,
    clip: str | None = None,
    num_images: int = 16,
    guidance_scale: float = 7.5,
) -> Figures:
    """All figures, as they are written to RUN/evaluation.json; see `texdiff evaluate --help` for the arguments.

    Raises:
        InputError: RUN is no finished run, the dataset or a model cannot be read, or a number makes no sense.
    """
    if num_images < _LEAST:
        raise InputError(f"--num_images {num_images}: KID needs {_LEAST} or more")
    settings = _settings(run)
    extractor, agreement = load_extractor(feature_model), PromptAgreement(clip) if clip else None
    notes: list[str] = []
    held_out, references = read_evaluation_data(dataset, settings["data"], notes)
    wanted = held_out.repeated(num_images)
    restored, made = _draw(run, settings, guidance_scale, held_out, wanted)

    figures: Figures = {
        "run": str(run),
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
        "reconstruction": {who: _closeness(pictures, held_out, extractor) for who, pictures in restored.items()},
    }
    real = features(references.pictures, references.masks, extractor, progress=True)
    drawn = {who: features(one.pictures, one.masks, extractor, progress=True) for who, one in made.items()}
    figures["atlases"] = _distances(drawn, real)
    figures["renders"], figures["seams"], worn = _on_meshes(wanted, made, references, extractor, notes)
    figures["prompt_agreement"] = None
    if agreement:
        figures["prompt_agreement"] = {
            "atlases": {who: agreement(one.pictures, one.prompts) for who, one in made.items()},
            "renders": {
                who: agreement(np.stack(one.views), [wanted.prompts[i] for i in one.numbers])
                for who, one in worn.items()
            },
        }
    else:
        notes.append("prompt agreement is left out: name a CLIP with --clip")
    for kind in ("atlases", "renders"):
        if figures[kind] and figures[kind]["difference"]["kid_low"] <= 0 <= figures[kind]["difference"]["kid_high"]:
            notes.append(f"{kind}: base and run cannot be told apart by KID at this size; raise --num_images")
    figures["notes"] = notes
    write_atomic(run / FILE, json.dumps(figures, indent=1, ensure_ascii=False).encode(), durable=False)
    return figures


def _settings(run: Path) -> Figures:
    try:
        settings = yaml.safe_load((run / "config.yaml").read_text("utf-8"))
        for section, key in (("model", "train"), ("data", "resolution"), ("run", "seed"), ("validation", "prompts")):
            settings[section][key]
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{run}: is no run's folder ({reason}); name the output_dir of a finished run") from None
    return settings


def _draw(
    run: Path, settings: Figures, guidance_scale: float, held_out: Textures, wanted: Textures
) -> tuple[dict[str, Pictures], dict[str, Textures]]:
    """Held-out textures as the VAE, the base and the run give them back; new ones of base and run."""
    restored: dict[str, Pictures] = {}
    made: dict[str, Textures] = {}
    chosen, lora = settings["model"], settings["model"]["train"] == "lora"
    for who in ("base", "trained"):
        base = (
            load_base(str(run))
            if who == "trained" and not lora
            else load_base(chosen["pretrained_model_name_or_path"], chosen["revision"], chosen["variant"])
        )
        model = EvaluationModel(
            base,
            settings["data"]["resolution"],
            settings["validation"]["num_inference_steps"],
            guidance_scale,
            settings["run"]["seed"],
        )
        if who == "base":
            restored["vae"] = model.encode_decode(held_out.pictures)
        elif lora:
            add_lora(model.pipeline, run)
        restored[who] = model.reconstruct(held_out.pictures, held_out.prompts, f"{who}: reconstructing")
        made[who] = wanted.wearing(model.generate(wanted.prompts, f"{who}: drawing"))
    return restored, made


def _closeness(pictures: Pictures, targets: Textures, extractor: Extractor) -> Figures:
    """Means over the textures, inside their masks."""
    known = (targets.pictures, targets.masks)
    return {
        "psnr": float(psnr(pictures, *known).mean()),
        "ssim": float(ssim(pictures, *known).mean()),
        "perceptual_distance": float(perceptual_distance(pictures, *known, extractor).mean()),
    }


def _distances(made: Mapping[str, Sequence[Floats] | Floats], real: Sequence[Floats] | Floats) -> Figures:
    """KID and FID to the features of real textures, and the difference that the run makes to KID."""
    figures: Figures = {who: _interval(kid(one, real)) | {"fid": fid(one, real)} for who, one in made.items()}
    return figures | {"difference": _interval(kid_difference(made["trained"], made["base"], real))}


def _interval(kid: Interval) -> Figures:
    return {"kid": kid.mean, "kid_low": kid.low, "kid_high": kid.high}


def _on_meshes(
    wanted: Textures, made: dict[str, Textures], references: Textures, extractor: Extractor, notes: list[str]
) -> tuple[Figures | None, Figures | None, dict[str, OnMeshes]]:
    """Set distances between renders, seam errors (the dataset's own beside them), and the renders themselves."""
    found = {name: find_mesh(name) for name in dict.fromkeys([*wanted.names, *references.names])}
    worn = {name: mesh for name, mesh in found.items() if mesh is not None}
    if not worn:
        notes.append("renders and seams are left out: the dataset names no mesh that is still there")
        return None, None, {}
    sets = [one.pictures for one in made.values()]
    drawn = dict(zip(made, on_meshes(wanted.names, sets, worn, extractor, "on meshes"), strict=True))
    (own,) = on_meshes(references.names, [references.pictures], worn, extractor, "references on meshes")
    seams = {"own": own.seams.figures()} | {who: one.seams.figures() for who, one in drawn.items()}
    fewest = min(len(own.features), *(len(one.features) for one in drawn.values()))
    if fewest < _LEAST:
        notes.append(f"set distances of renders are left out: {fewest} textures have a mesh, and KID needs {_LEAST}")
        return None, seams, {who: one for who, one in drawn.items() if one.views}
    return _distances({who: one.features for who, one in drawn.items()}, own.features), seams, drawn
