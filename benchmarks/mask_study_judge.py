"""One run of the mask study, judged: `python -m benchmarks.mask_study_judge RUN DATASET PICTURES STEPS GUIDANCE`.

Writes RUN/study.json: the error inside the mask after every checkpoint, and KID of the last one.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from texdiff.config import LoraConfig
from texdiff.data.record import Record
from texdiff.data.records import read_records
from texdiff.diffusion.draws import keyed_generator
from texdiff.diffusion.mask import downsample
from texdiff.evaluation.metrics.distribution import kid
from texdiff.evaluation.metrics.features import features
from texdiff.evaluation.sampler import EvaluationSampler
from texdiff.evaluation.textures import read_evaluation_textures
from texdiff.models.base import load_base
from texdiff.models.stable_diffusion import StableDiffusion
from texdiff.models.trainable import add_lora
from texdiff.training.run import Run

RESOLUTION, TEXTURES, TIMESTEPS = 256, 32, 8


@torch.no_grad()
def yardstick(family: StableDiffusion, records: list[Record]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each atlas its latents [4, h, w], the cells wholly inside its mask bool [h, w], its caption's embedding."""
    found = []
    for record in records[:TEXTURES]:
        picture, mask = record.model_input(RESOLUTION, "fill")
        latents = family.latents(family.encode_images(picture[None])[0])[0]
        inside = downsample(torch.from_numpy(mask)[None, None].float(), tuple(latents.shape[1:]), "all")[0, 0] > 0
        found.append((latents, inside, family.encode_prompts(record.captions[:1])["text"][0]))
    return found


@torch.no_grad()
def error_inside(unet: Any, alphas: Tensor, atlases: list[tuple[Tensor, Tensor, Tensor]]) -> float:
    """Mean squared error of the noise, per cell inside, over all atlases and the grid of timesteps."""
    error = cells = 0.0
    grid = torch.tensor([int((i + 0.5) * len(alphas) / TIMESTEPS) for i in range(TIMESTEPS)])
    alpha = alphas[grid].view(-1, 1, 1, 1)
    for index, (latents, inside, text) in enumerate(atlases):
        draws = [torch.randn(latents.shape, generator=keyed_generator(7, "study", index, int(t))) for t in grid]
        noise = torch.stack(draws)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        predicted = unet(noisy, grid, text.expand(TIMESTEPS, -1, -1)).sample
        error += (predicted - noise).square().mean(1)[:, inside].double().sum().item()
        cells += TIMESTEPS * int(inside.sum())
    return error / cells


def main() -> None:
    run, dataset, pictures, steps, guidance = sys.argv[1:]
    torch.set_num_threads(1)
    base = load_base("nano")
    family = StableDiffusion(base)
    atlases = yardstick(family, read_records(dataset, "validation"))
    alphas = base.scheduler.alphas_cumprod
    errors = {0: error_inside(base.unet.eval(), alphas, atlases)}
    add_lora(base.unet, LoraConfig(rank=16), seed=0)
    base.unet.eval()
    for checkpoint in Run(Path(run)).checkpoints():
        base.unet.load_state_dict(load_file(checkpoint / "weights.safetensors"), strict=False)
        errors[int(checkpoint.name.split("-")[1])] = error_inside(base.unet, alphas, atlases)
    columns = {"image_column": "image", "mask_column": "mask", "caption_column": "text", "resolution": RESOLUTION}
    held_out, references = read_evaluation_textures(dataset, columns, [])
    wanted = held_out.repeated(int(pictures))
    model = EvaluationSampler(family, RESOLUTION, int(steps), float(guidance), seed=0)
    drawn = wanted.with_images(model.generate(wanted.prompts, "draw"))
    near = kid(features(drawn.images, drawn.masks), features(references.images, references.masks))
    result = {"error": errors, "kid": near.mean, "kid_95": [near.low, near.high]}
    Path(run, "study.json").write_text(json.dumps(result, default=np.ndarray.tolist) + "\n")


if __name__ == "__main__":
    main()
