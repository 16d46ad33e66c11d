"""What is compared: runs with cures in training, and drawings by them with a cure in sampling and without."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from benchmarks.train_here import train_here
from texdiff.config import (
    DataConfig,
    LayoutConfig,
    LoraConfig,
    MaskConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainingConfig,
    ValidationConfig,
)
from texdiff.data.layout_input import layout_input
from texdiff.data.record import texels_of
from texdiff.data.records import read_records
from texdiff.diffusion.draws import keyed_generator
from texdiff.diffusion.mask import downsample
from texdiff.models.family import load_family
from texdiff.models.layout_net import pipeline_inputs
from texdiff.models.lora_files.load import add_lora

RESOLUTION, STEPS, DRAWN, BATCH, SAMPLING_STEPS, GUIDANCE = 128, 300, 24, 4, 16, 3.0
CURES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "unmasked_weight 0.1": {"unmasked_weight": 0.1},
    "outside base_model": {"outside": "base_model"},
}
TRAINED = {"LoRA": ("lora", False), "LoRA under a layout net": ("lora", True), "layout net": ("controlnet", True)}
SAMPLERS = ("as it is", "void given anew")

Images = NDArray[np.uint8]


@cache
def held_out(folder: Path) -> list[tuple[Any, Images, NDArray[np.bool_], Tensor]]:
    """Record, texture, mask and map [1, 3, R, R] of each held-out atlas with a map and a void to speak of."""
    found = []
    for record in read_records(str(folder / "prepared"), "validation", layout_column="layout"):
        picture, mask = record.model_input(RESOLUTION, "fill")
        if record.layout is not None and 0.15 <= mask.mean() < 0.85:
            layout = layout_input(record, mask, "position")
            assert layout is not None
            found.append((record, texels_of(picture), mask, layout))
    return found


def numbers(seed: int, count: int) -> list[int]:
    """Which of the held-out atlases a seed's drawings stand for."""
    return [(DRAWN * seed + i) % count for i in range(DRAWN)]


def trained(what: str, cure: str, seed: int, folder: Path, net: Path) -> tuple[Path, dict[str, float]]:
    """The finished run, and its held-out figures."""
    kind, under = TRAINED[what]
    place = folder / "runs" / f"{what}-{cure}-{seed}".replace(" ", "_")
    config = TrainingConfig(
        model=ModelConfig(train=kind),  # type: ignore[arg-type]
        layout=LayoutConfig(maps="position", init=str(net)) if under else LayoutConfig(),
        data=DataConfig(
            dataset=str(folder / "prepared"), resolution=RESOLUTION, background="fill", cache_dir=str(folder / "cache")
        ),
        lora=LoraConfig(rank=16),
        mask=MaskConfig(**CURES[cure]),
        optim=OptimConfig(learning_rate=1e-3 if kind == "lora" else 3e-4, lr_scheduler="cosine"),
        run=RunConfig(
            output_dir=str(place), seed=seed, max_train_steps=STEPS, checkpointing_steps=STEPS, report_to="none"
        ),
        validation=ValidationConfig(every=STEPS, num_images=0),
    )
    train_here(config, folder / "log.txt")
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text("utf-8").splitlines()]
    return place, [line for line in lines if "validation_loss" in line and line["step"] == STEPS][-1]


@torch.no_grad()
def draw(what: str, run: Path, net: Path, sampler: str, seed: int, folder: Path) -> list[Images]:
    """An atlas for each held-out caption of the seed, on its own mesh where there is a layout net."""
    kind, under = TRAINED[what]
    known = held_out(folder)
    chosen = [known[number] for number in numbers(seed, len(known))]
    family = load_family("nano")
    init = str(run if kind == "controlnet" else net)
    layout_net = family.layout_net(LayoutConfig(maps="position", init=init)).eval() if under else None
    pipeline: Any = family.pipeline(family.denoiser.eval(), layout_net)
    if kind == "lora":
        add_lora(pipeline, run)
    pipeline.set_progress_bar_config(disable=True)
    scheduler = GivenAnew if sampler == SAMPLERS[1] else DPMSolverMultistepScheduler
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config, euler_at_final=True)
    drawn = []
    for start in range(0, DRAWN, BATCH):
        some = chosen[start : start + BATCH]
        masks = torch.stack([torch.from_numpy(mask)[None].float() for _, _, mask, _ in some])
        pipeline.scheduler.covered = downsample(masks, (RESOLUTION // 8, RESOLUTION // 8), "area")
        maps = torch.cat([layout for _, _, _, layout in some]) if under else None
        made = pipeline(
            [record.captions[0] for record, _, _, _ in some],
            height=RESOLUTION,
            width=RESOLUTION,
            num_inference_steps=SAMPLING_STEPS,
            guidance_scale=GUIDANCE,
            generator=[keyed_generator(seed, "cures", start + i) for i in range(len(some))],
            output_type="np",
            **pipeline_inputs(pipeline, maps),
        ).images
        drawn += list(np.rint(made * 255).astype(np.uint8))
    return drawn


class GivenAnew(DPMSolverMultistepScheduler):
    """DPM-Solver++ that gives the void anew at each step; `covered` [B, 1, h, w] is 1 in cells with anything of the
    surface."""

    covered: Tensor

    def convert_model_output(self, *arguments: Any, **named: Any) -> Tensor:
        clean = super().convert_model_output(*arguments, **named)
        filled = fill_latents(clean, self.covered.repeat(len(clean) // len(self.covered), 1, 1, 1))
        self.filled = filled
        return filled

    def step(self, *arguments: Any, **named: Any) -> tuple[Tensor]:
        (sample,) = super().step(*arguments, **named | {"return_dict": False})
        alpha, sigma = self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index])
        noise = torch.randn(sample.shape, generator=torch.Generator().manual_seed(int(self.step_index)))
        return (torch.where(self.covered > 0, sample, alpha * self.filled + sigma * noise),)


def fill_latents(latents: Tensor, covered: Tensor) -> Tensor:
    """Latents [B, C, h, w] with cells that are not covered (0 in [B, 1, h, w]) filled from those that are: each from
    the next coarser level at which there is something, bilinear between its cells."""
    known = (covered > 0).to(latents)
    if known.all() or min(latents.shape[2:]) < 2:
        mean = (latents * known).sum(dim=(2, 3), keepdim=True) / known.sum(dim=(2, 3), keepdim=True).clamp(min=1)
        return torch.where(known > 0, latents, mean)
    weight = avg_pool2d(known, 2)
    coarse = fill_latents(avg_pool2d(latents * known, 2) / weight.clamp(min=1e-6), weight)
    return torch.where(known > 0, latents, interpolate(coarse, scale_factor=2.0, mode="bilinear"))


def drawn_file(folder: Path, what: str, cure: str, sampler: str, seed: int) -> Path:
    """Where a run's drawings are, one beside the other."""
    return folder / f"{what}-{cure}-{seed}-{sampler}.png".replace(" ", "_")
