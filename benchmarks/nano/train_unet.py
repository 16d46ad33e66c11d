"""Train the text encoder and the U-Net of `nano` together, on the finished autoencoder: the second step.

    python -m benchmarks.nano.train_unet [--steps N]
    torchrun --nproc_per_node 2 -m benchmarks.nano.train_unet --threads 1 ...

The first part of the steps is on crops of 16 x 16 latents, which cost a quarter, the last on whole 32 x 32 ones.
Writes outputs/nano/unet.pt every two minutes and continues from it when started again.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.nano.latents import encoded_looks, phrase
from benchmarks.nano.loop import OUT, average_gradients, learning_rate, save, start
from texdiff.training.nano import clip_tokenizer, make_scheduler, make_text_encoder, make_unet

NOISE_OFFSET = 0.3
"""Standard deviation of a constant added to each channel's noise. Without it the picture's mean shows through the
noise even at the schedule's last timestep: the U-Net then learns to read the colour there, not in the prompt, and
finds none when it starts from pure noise. Tried: without it
materials came right and no colour did."""


class Painter(nn.Module):
    """Text encoder and U-Net as one module, so that one optimiser and one moving average hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder()
        self.unet = make_unet()

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[B, 4, h, w], [B], [B, 77] -> the noise in it, [B, 4, h, w]."""
        return self.unet(noisy, timestep, self.text_encoder(tokens)[0]).sample


def batch_loss(
    painter: Painter, scheduler: DDPMScheduler, latents: torch.Tensor, tokens: torch.Tensor, draw: torch.Generator
) -> torch.Tensor:
    """Mean squared error of the predicted noise, and eight times that of its means over squares of 8 x 8.

    Near pure noise the plain error hardly tells a wrong colour from a right one; the means do. Both have the same
    optimum. Half of the timesteps are drawn from the noisier half of the schedule alone, where colour and layout are
    decided.
    """
    noise = torch.randn(latents.shape, generator=draw)
    noise += NOISE_OFFSET * torch.randn((*latents.shape[:2], 1, 1), generator=draw)
    noise = noise.to(latents.device)
    uniform = torch.rand(len(latents), generator=draw)
    late = torch.rand(len(latents), generator=draw) < 0.5
    timestep = (torch.where(late, 0.5 + uniform / 2, uniform) * 1000).long().to(latents.device)
    noisy = scheduler.add_noise(latents, noise, timestep)
    residual = painter(noisy, timestep, tokens).float() - noise
    return residual.square().mean() + 8 * F.avg_pool2d(residual, 8).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=7200, help="pictures to encode")
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--whole", type=float, default=0.35, help="part of the steps on whole pictures")
    parser.add_argument("--batch", type=int, default=32, help="crops per rank and step, a multiple of 4")
    parser.add_argument("--peak", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    device, rank, ranks = start(given.threads)
    latents, captions = encoded_looks(given.looks, device, rank, ranks)
    scale = 1 / latents.float().std()
    torch.manual_seed(0)
    painter = Painter().to(device)
    average = Painter().to(device).requires_grad_(False)
    average.load_state_dict(painter.state_dict())
    optimizer = torch.optim.AdamW(painter.parameters(), lr=given.peak, betas=(0.9, 0.99), weight_decay=0.0)
    first = 0
    if (OUT / "unet.pt").exists():
        state = torch.load(OUT / "unet.pt", map_location=device)
        painter.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first, scale = state["step"], state["scale"]
    elif ranks > 1:
        torch.distributed.broadcast(scale, 0)
    with tempfile.TemporaryDirectory() as own:  # one for each rank, as both write it
        tokenizer = clip_tokenizer(Path(own))
    scheduler = make_scheduler()
    saved, mean_loss = time.monotonic(), None
    bar = tqdm(range(first, given.steps), "unet", initial=first, total=given.steps, mininterval=10, disable=rank > 0)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, given.steps, given.peak)
        whole = step >= (1 - given.whole) * given.steps
        count, side = (given.batch // 4, 32) if whole else (given.batch, 16)
        rng = np.random.default_rng((2, step, rank))
        draw = torch.Generator().manual_seed(step * ranks + rank)
        chosen = rng.integers(len(latents), size=count)
        y, x = rng.integers(0, 32 - side + 1, (2, count))
        z = torch.stack([latents[i, :, a : a + side, b : b + side] for i, a, b in zip(chosen, y, x, strict=True)])
        texts = [phrase(captions[i], rng) for i in chosen]
        tokens = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = batch_loss(painter, scheduler, z.to(device).float() * scale, tokens.to(device), draw)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(painter.parameters())
        nn.utils.clip_grad_norm_(painter.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(painter.parameters()), 1 - decay)
        mean_loss = loss.item() if mean_loss is None else 0.99 * mean_loss + 0.01 * loss.item()
        bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
        if rank == 0 and (time.monotonic() - saved > 120 or step + 1 == given.steps):
            state = {"model": painter.state_dict(), "average": average.state_dict(), "scale": scale, "step": step + 1}
            save("unet.pt", state | {"optimizer": optimizer.state_dict()})
            saved = time.monotonic()


if __name__ == "__main__":
    main()
