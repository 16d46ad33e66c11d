"""One run of the study: trained by the trainer itself, judged by the error of its prediction, and 24 atlases drawn."""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.mask_study.conditions import ARMS, Job
from benchmarks.mask_study.datasets import Image8, dataset
from benchmarks.train_here import train_here
from texdiff.config import (
    DataConfig,
    LoraConfig,
    MaskConfig,
    OptimConfig,
    RunConfig,
    TrainingConfig,
    ValidationConfig,
)
from texdiff.data.records import read_records
from texdiff.diffusion.draws import keyed_generator
from texdiff.diffusion.loss import region_errors
from texdiff.diffusion.mask import downsample
from texdiff.evaluation.sampler import EvaluationSampler
from texdiff.models.base import load_base
from texdiff.models.stable_diffusion import StableDiffusion
from texdiff.models.trainable import add_lora
from texdiff.training.run import Run

RESOLUTION, STEPS, EVERY = 128, 300, 60
LORA, OPTIM = LoraConfig(rank=16), OptimConfig(learning_rate=1e-3, lr_scheduler="cosine")
ATLASES, TIMES = 24, 4  # of the error: held-out atlases, and points of the grid of timesteps
DRAWN, SAMPLING_STEPS, GUIDANCE = 24, 16, 3.0


def run(job: Job, folder: Path) -> dict[str, Any]:
    """Train and judge; the drawn atlases go to FOLDER/drawn/JOB.png, one below the other.

    The error is that of the predicted noise on held-out atlases with the void that the run was trained on, and at the
    end also with the void filled.
    """
    background, mask = ARMS[job.arm]
    place = folder / "runs" / job.name
    config = TrainingConfig(
        data=DataConfig(
            dataset=str(dataset(folder, job.void, job.band, "train")),
            resolution=RESOLUTION,
            background=background,  # type: ignore[arg-type]
            cache_dir=str(folder / "cache"),
        ),
        lora=LORA,
        mask=MaskConfig(**mask),  # type: ignore[arg-type]
        optim=OPTIM,
        run=RunConfig(
            output_dir=str(place),
            seed=job.seed,
            max_train_steps=STEPS,
            checkpointing_steps=EVERY,
            checkpoints_total_limit=STEPS // EVERY,
            report_to="none",
        ),
        validation=ValidationConfig(every=0, num_images=0),
    )
    train_here(config, folder / "log.txt")
    model = Judged(folder)
    errors = {}
    for checkpoint in Run(place).checkpoints():
        model.load(checkpoint / "weights.safetensors")
        errors[int(checkpoint.name.split("-")[1])] = model.errors(job.void, job.band, background)
    row = {
        "errors": errors,
        "filled": errors[STEPS] if background == "fill" else model.errors(job.void, job.band, "fill"),
    }
    model.draw(job, folder)
    shutil.rmtree(place)
    return row


def base(job: Job, folder: Path) -> dict[str, Any]:
    """The same of nano itself."""
    model = Judged(folder)
    model.draw(job, folder)
    kept, filled = (model.errors(job.void, job.band, background) for background in ("keep", "fill"))
    return {"errors": {0: kept}, "filled": filled}


@cache
def yardstick(folder: Path, void: str, band: str, background: str) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each held-out atlas its latents [1, 4, h, w], its cells' covered shares [1, 1, h, w], its encoded caption."""
    family, found = StableDiffusion(load_base("nano")), []
    for record in read_records(str(dataset(folder, void, band, "validation")), "train")[:ATLASES]:
        picture, mask = record.model_input(RESOLUTION, background)
        latents = family.latents(family.encode_images(picture[None])[0])
        covered = downsample(torch.from_numpy(mask)[None, None].float(), (latents.shape[2], latents.shape[3]), "area")
        found.append((latents, covered, family.encode_prompts(record.captions[:1])["text"]))
    return found


class Judged:
    """nano with adapters, whose weights are those of a checkpoint."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        base = load_base("nano")
        self.family, self.unet = StableDiffusion(base), base.unet
        self.alphas = base.scheduler.alphas_cumprod
        add_lora(self.unet, LORA, seed=0)
        self.unet.eval()

    def load(self, weights: Path) -> None:
        missing = self.unet.load_state_dict(load_file(weights), strict=False)
        assert not missing.unexpected_keys, missing.unexpected_keys

    @torch.no_grad()
    def errors(self, void: str, band: str, background: str) -> list[float]:
        """Mean squared errors of the noise: in cells wholly inside the mask, and in those on its border.

        On fixed noise, at fixed timesteps; every cell of every atlas counts alike.
        """
        grid = torch.tensor([int((i + 0.5) * len(self.alphas) / TIMES) for i in range(TIMES)])
        alpha = self.alphas[grid].view(-1, 1, 1, 1)
        total = torch.zeros(2, 3, dtype=torch.float64)
        for index, (latents, covered, text) in enumerate(yardstick(self.folder, void, band, background)):
            noise = [torch.randn(latents.shape[1:], generator=keyed_generator(7, "study", index, int(t))) for t in grid]
            target = torch.stack(noise)
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * target
            predicted = self.unet(noisy, grid, text.expand(TIMES, -1, -1)).sample
            total += region_errors(predicted, target, covered.expand(TIMES, -1, -1, -1)).double()
        return (total[0] / total[1])[:2].tolist()

    def draw(self, job: Job, folder: Path) -> None:
        """24 atlases by held-out captions, from the noise of the seed; which captions, goes on from seed to seed."""
        records = read_records(str(dataset(folder, job.void, job.band, "validation")), "train")
        prompts = [records[number].captions[0] for number in drawn_numbers(job.seed, len(records))]
        sampler = EvaluationSampler(self.family, RESOLUTION, SAMPLING_STEPS, GUIDANCE, job.seed)
        drawn = sampler.generate(prompts, job.name)
        (folder / "drawn").mkdir(exist_ok=True)
        Image.fromarray(np.concatenate(drawn)).save(folder / "drawn" / f"{job.name}.png")


def drawn_numbers(seed: int, count: int) -> list[int]:
    """Which of the band's `count` held-out atlases the 24 of a seed stand for."""
    return [(DRAWN * seed + i) % count for i in range(DRAWN)]


def drawn_atlases(job: Job, folder: Path) -> Image8:
    """What `draw` has written, uint8 [24, 256, 256, 3]."""
    with Image.open(folder / "drawn" / f"{job.name}.png") as file:
        return np.asarray(file).reshape(DRAWN, RESOLUTION, RESOLUTION, 3)
