"""Single runs at 256 px beside the study: how much black do size, adapters and guidance put on the mesh?

    python -m benchmarks.mask_study.lead FOLDER

FOLDER is the study's own. 200 steps of batch 4 on the atlases whose void is painted black, the usual way and with the
mask: by the study's recipe (adapters on attention), and by that of configs/demo.yaml (on convolutions and
feed-forward layers too, with a noise offset of 0.3). 24 held-out captions are drawn by each, and put on their own
masks. Printed, and written to FOLDER/lead.jsonl: the share of covered texels in flat patches near black, as the study
counts it, that of texels with all channels below 30, and how many atlases have more than 10 % of the latter.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.mask_study.conditions import ARMS, MASK, USUAL
from benchmarks.mask_study.datasets import atlases, chosen, dataset
from benchmarks.mask_study.judge import MUCH, REAL
from benchmarks.mask_study.train import DRAWN, LORA, OPTIM
from benchmarks.train_here import train_here
from texdiff.config import DataConfig, LoraConfig, MaskConfig, NoiseConfig, RunConfig, TrainingConfig, ValidationConfig
from texdiff.data.record import texels_of
from texdiff.evaluation.sampler import EvaluationSampler
from texdiff.models.family import load_family
from texdiff.models.lora_files.load import add_lora
from texdiff.render.void import void_on_surface

RESOLUTION, STEPS, SAMPLING_STEPS = 256, 200, 20
DARK = 30
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2")
RECIPES = {
    "demo's": (LoraConfig(rank=16, target_modules=LAYERS), replace(OPTIM, lr_scheduler="constant"), 0.3),
    "the study's": (LORA, OPTIM, 0.0),
}
GUIDANCE = (1.0, 3.0, 7.5)


def run(recipe: str, arm: str, folder: Path) -> Path:
    """The finished run."""
    lora, optim, offset = RECIPES[recipe]
    background, mask = ARMS[arm]
    place = folder / "runs" / f"lead-{recipe}-{arm}".replace(" ", "_").replace("'", "")
    config = TrainingConfig(
        data=DataConfig(
            dataset=str(dataset(folder, "black", "all", "train")),
            resolution=RESOLUTION,
            background=background,  # type: ignore[arg-type]
            cache_dir=str(folder / "cache"),
        ),
        lora=lora,
        mask=MaskConfig(**mask),  # type: ignore[arg-type]
        noise=NoiseConfig(offset=offset),
        optim=optim,
        run=RunConfig(
            output_dir=str(place),
            max_train_steps=STEPS,
            train_batch_size=4,
            checkpointing_steps=STEPS,
            report_to="none",
        ),
        validation=ValidationConfig(every=0, num_images=0),
    )
    train_here(config, folder / "log.txt")
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.absolute()
    torch.set_num_threads(1)
    numbers = chosen(folder, "validation", "all")[:DRAWN]
    records = [atlases(folder, "validation")[number][0] for number in numbers]
    known = [record.model_input(RESOLUTION, "fill") for record in records]

    def judge(textures: list[np.ndarray], **of: object) -> None:
        pairs = list(zip(textures, (mask for _, mask in known), strict=True))
        dark = [float((texture[mask] < DARK).all(axis=-1).mean()) for texture, mask in pairs]
        found = {
            "void_on_surface": float(np.mean([void_on_surface(texture, mask, [(0, 0, 0)]) for texture, mask in pairs])),
            "dark": float(np.mean(dark)),
            "much": sum(share > MUCH for share in dark),
            "atlases": len(dark),
        }
        with (folder / "lead.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(of | found) + "\n")
        print(of | found, flush=True)

    judge([texels_of(picture) for picture, _ in known], arm=REAL)
    for recipe, arm in ((recipe, arm) for recipe in RECIPES for arm in (USUAL, MASK)):
        place = run(recipe, arm, folder)
        family = load_family("nano")
        for guidance in GUIDANCE:
            sampler = EvaluationSampler(family, RESOLUTION, SAMPLING_STEPS, guidance, seed=0)
            if guidance == GUIDANCE[0]:
                add_lora(sampler.pipeline, place)
            drawn = sampler.generate([record.captions[0] for record in records], place.name)
            judge(list(drawn), recipe=recipe, arm=arm, guidance=guidance)


if __name__ == "__main__":
    main()
