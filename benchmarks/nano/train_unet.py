"""Train the text encoder and the U-Net of `nano` together, on the finished autoencoder: the second step.

    python -m benchmarks.nano.train_unet --seconds 240

Writes unet.pt and unet-training.pt in outputs/nano (or $NANO_OUT) every 15 s and continues from them when started
again; with more seconds than before, the learning rate rises again to where it was at that share of them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.nano.latents import PATTERNS, Phrases, encoded_patterns
from benchmarks.nano.loop import Training, precision, start, tell
from texdiff.models.nano import clip_tokenizer, make_scheduler, make_text_encoder, make_unet

NOISE_OFFSET = 0.3
"""Standard deviation of a constant added to each channel's noise. Without it the picture's mean shows through the
noise even at the schedule's last timestep: the U-Net then learns to read the colour there, not in the prompt, and
finds none when it starts from pure noise. Tried: without it materials came right and no colour did."""


class Painter(nn.Module):
    """Text encoder and U-Net as one module, so that one optimiser and one moving average hold both."""

    def __init__(self) -> None:
        super().__init__()
        self.text_encoder = make_text_encoder()
        self.unet = make_unet()

    def forward(self, noisy: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """[B, 4, h, w], [B], [B, 77] -> the noise in it, [B, 4, h, w]."""
        return self.unet(noisy.to(self.unet.dtype), timestep, self.text_encoder(tokens)[0]).sample


def batch_loss(
    painter: nn.Module, cumulative: torch.Tensor, latents: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of the predicted noise, and eight times that of its means over squares of 8 x 8.

    `cumulative` is the schedule's product of alphas, [1000]. Near pure noise the plain error hardly tells a wrong
    colour from a right one; the means do. Both have the same optimum. Half of the timesteps are drawn from the
    noisier half of the schedule alone, where colour and layout are decided.
    """
    noise = torch.randn_like(latents)
    noise = noise + NOISE_OFFSET * torch.randn_like(noise[..., :1, :1])
    uniform, late = torch.rand(2, len(latents), device=latents.device)
    timestep = (torch.where(late < 0.5, 0.5 + uniform / 2, uniform) * 1000).long()
    kept = cumulative[timestep][:, None, None, None]
    residual = painter(kept.sqrt() * latents + (1 - kept).sqrt() * noise, timestep, tokens).float() - noise
    return residual.square().mean() + 8 * F.avg_pool2d(residual, 8).square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="all calls together, with their starts")
    parser.add_argument("--patterns", type=int, default=PATTERNS, help="pictures to encode")
    parser.add_argument("--batch", type=int, help="pictures a step; 128 on a GPU, 16 on a CPU where left out")
    parser.add_argument("--peak", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    device = start(given.threads)
    batch = given.batch or (128 if device == "cuda" else 16)
    latents, captions = encoded_patterns(given.patterns, device)
    with tempfile.TemporaryDirectory() as folder:
        phrases = Phrases(captions, clip_tokenizer(Path(folder)), device)
    training = Training("unet", Painter().to(device), device, given.peak, weight_decay=0.0, average_decay=0.998)
    scale = training.extra.setdefault("scale", 1 / latents.float().std().item())
    tell(f"{len(phrases.tokens)} captions, each in {phrases.tokens.shape[1]} ways; latents scaled by {scale:.4f}")
    cumulative = make_scheduler().alphas_cumprod.to(device)

    def objective() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.randint(len(captions), (batch,), device=device)
        mirrored = torch.randint(2, (batch,), device=device)
        z = latents[mirrored, chosen].float() * scale
        with precision(device):
            loss = batch_loss(training.working, cumulative, z, phrases.draw(chosen))
        return loss, loss

    sys.exit(training.run(objective, given.seconds, batch, "loss {:.4f}".format))


if __name__ == "__main__":
    main()
