"""How much less the loss and the gradient of a batch vary where its timesteps are stratified.

    python -m benchmarks.timestep_sampling DATASET [--draws 2000] [--base nano] [--output FILE.json]

One pool of single samples is drawn, each a random texture with random noise at a random timestep, and of each the
masked loss and its gradient with respect to fresh rank-8 adapters. With uniform timesteps the mean of a batch of B has
the variance V/B, V the pool's; with stratified ones W/B, W the mean of the variances within B equal parts of the
timesteps. For the gradient, variance is the trace of the covariance. So one pool gives the ratio for every B; its own
error is a bootstrap's standard deviation.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from tqdm import trange

from texdiff.config import LoraConfig
from texdiff.data.records import read_records
from texdiff.diffusion.loss import masked_mse
from texdiff.diffusion.mask import latent_mask
from texdiff.models.family import Conditioning, load_family
from texdiff.models.nano import nano_folder
from texdiff.models.trainable import LoraDenoiser

BATCHES = (4, 8, 16, 32)
TEXTURES, RESOLUTION = 64, 128
DIRECTIONS = 512  # random ones, onto which gradients are projected; lengths and distances survive


def pool(name: str, dataset: str, draws: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Timesteps [n], losses [n], projected gradients [n, d] of `draws` single samples, and min-SNR-5 weights [n]."""
    generator = torch.Generator().manual_seed(0)
    family = load_family(name)
    process, trainable = family.process, LoraDenoiser(family, LoraConfig(), 0, torch.float32)
    tensors = [p for p in trainable.trained().values() if p.ndim > 1]
    latents, masks, prompts = [], [], []
    with torch.no_grad():
        for record in read_records(dataset, "train")[:TEXTURES]:
            picture, mask = record.model_input(RESOLUTION, "fill")
            latents.append(family.latents(family.encode_images(picture[None])[0]))
            masks.append(latent_mask(torch.from_numpy(mask)[None, None].float(), latents[-1].shape[-2:]))
            prompts.append(Conditioning(prompt=family.encode_prompts(record.captions[:1])))
    usable = [i for i, mask in enumerate(masks) if mask.any()]
    sizes = [p.numel() for p in tensors]
    buckets = torch.randint(DIRECTIONS, (sum(sizes),), generator=generator)
    signs = torch.randint(2, (sum(sizes),), generator=generator).float() * 2 - 1
    timesteps = torch.randint(1000, (draws,), generator=generator)
    losses, gradients = torch.zeros(draws), torch.zeros(draws, DIRECTIONS)
    for number in trange(draws):
        i = usable[int(torch.randint(len(usable), (), generator=generator))]
        t = timesteps[number : number + 1]
        noise = torch.randn(latents[i].shape, generator=generator)
        target = process.target(latents[i], noise, t)
        prediction = trainable(process.add_noise(latents[i], noise, t), t, prompts[i])
        loss = masked_mse(prediction, target, masks[i])
        flat = torch.cat([g.flatten() for g in torch.autograd.grad(loss, tensors)])
        losses[number] = loss.item()
        gradients[number].index_add_(0, buckets, flat * signs)
    return timesteps, losses, gradients, process.weights(timesteps, 5.0)


def spread(values: Tensor) -> Tensor:
    """Trace of the covariance of [n, d]."""
    return values.var(dim=0).sum()


def ratio(values: Tensor, strata: Tensor, count: int) -> float:
    """Variance of a batch's mean with stratified timesteps over that with uniform ones."""
    within = torch.stack([spread(values[strata == part]) for part in range(count)]).mean()
    return float(within / spread(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--base", default="nano")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    timesteps, losses, gradients, weights = pool(arguments.base, arguments.dataset, arguments.draws)
    rows = []
    for weighting, weight in (("none", torch.ones_like(losses)), ("min-SNR-5", weights)):
        for what, values in (("loss", losses[:, None]), ("gradient", gradients)):
            weighed = (values * weight[:, None]).double()
            for count in BATCHES:
                strata = timesteps * count // 1000
                resampled = []
                for seed in range(20):
                    chosen = torch.randint(len(strata), strata.shape, generator=torch.Generator().manual_seed(seed))
                    resampled.append(ratio(weighed[chosen], strata[chosen], count))
                row = {"weighting": weighting, "of": what, "batch": count, "ratio": ratio(weighed, strata, count)}
                rows.append(row | {"error": float(torch.tensor(resampled).std())})
                print(f"{weighting:10} {what:9} batch {count:3}  {row['ratio']:.3f} +- {rows[-1]['error']:.3f}")
    if arguments.output:
        base = nano_folder().name if arguments.base == "nano" else arguments.base
        result = {"base": base, "draws": arguments.draws, "resolution": RESOLUTION, "ratios": rows}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
