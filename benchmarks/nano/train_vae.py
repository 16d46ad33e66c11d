"""Train the autoencoder of `nano`: the first step.

    python -m benchmarks.nano.train_vae [--furniture FOLDER ...] [--steps N]
    torchrun --nproc_per_node 2 -m benchmarks.nano.train_vae --threads 1 ...

Writes outputs/nano/vae.pt every two minutes and continues from it when started again.
"""

import argparse
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.nano.loop import OUT, average_gradients, learning_rate, save, start
from benchmarks.nano.pictures import crops, training_pictures
from texdiff.training.nano import make_vae

KL_WEIGHT = 1e-5


def loss_of(vae: torch.nn.Module, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(what is minimised, mean squared error) of pictures [B, 3, H, W] in [-1, 1].

    Not to be compiled: under torch.compile the posterior's variance ran away (README.md).
    """
    posterior = vae.encode(pictures).latent_dist
    rebuilt = vae.decode(posterior.sample()).sample.float()
    squared = (rebuilt - pictures).square().mean((1, 2, 3))
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    # PSNR is a logarithm, so a smooth texture counts as much as a rough one; the 1e-3 (33 dB) ends that for plain ones.
    return 0.07 * (squared + 1e-3).log().mean() + KL_WEIGHT * kl, squared.detach().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--furniture", type=Path, nargs="*", default=[], help="folders of real textures")
    parser.add_argument("--synthetic", type=int, default=1500, help="procedural pictures in the pool")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--batch", type=int, default=8, help="crops per rank and step, a multiple of 4")
    parser.add_argument("--side", type=int, default=96, help="crop side in texels; twice that in the last sixth")
    parser.add_argument("--peak", type=float, default=1.5e-3, help="largest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    device, rank, ranks = start(given.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(0)
    vae = make_vae().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=given.peak, betas=(0.9, 0.99), weight_decay=1e-4)
    first = 0
    if (OUT / "vae.pt").exists():
        state = torch.load(OUT / "vae.pt", map_location=device)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    pictures = training_pictures(given.furniture, given.synthetic, seed=0)
    real = len(pictures) - given.synthetic
    saved, error = time.monotonic(), None
    bar = tqdm(range(first, given.steps), "vae", initial=first, total=given.steps, mininterval=10, disable=rank > 0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, given.steps, given.peak)
        # The same number of texels in fewer, larger crops at the end: group normalisation sees whole pictures then.
        large = step > 0.84 * given.steps
        count, side = (given.batch // 4, 2 * given.side) if large else (given.batch, given.side)
        rng = np.random.default_rng((1, step, rank))
        torch.manual_seed(step * ranks + rank)
        x = torch.from_numpy(crops(pictures, real, count, side, rng)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss, squared = loss_of(vae, x.contiguous(memory_format=torch.channels_last))
        optimizer.zero_grad()
        loss.backward()
        average_gradients(vae.parameters())
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        error = squared.item() if error is None else 0.99 * error + 0.01 * squared.item()
        bar.set_postfix(psnr=f"{10 * math.log10(4 / error):.2f}", refresh=False)
        if rank == 0 and (time.monotonic() - saved > 120 or step + 1 == given.steps):
            save("vae.pt", {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1})
            saved = time.monotonic()


if __name__ == "__main__":
    main()
