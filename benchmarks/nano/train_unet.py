"""Train the text encoder, U-Net and layout net of `nano` together, on its autoencoder's latents: the second step.

    python -m benchmarks.nano.train_unet --seconds 240 [--begin texdiff/assets/nano]

In the first fifth of the time words are bound to places: nearly all are atlases with their position maps, seen through
small windows at noisy timesteps alone. From then on such steps take turns with those that see everything, and with
those that see bands and edges. Writes unet.pt and unet-training.pt in outputs/nano (or $NANO_OUT) every 15 s and
continues from them when started again; with more seconds than before, the learning rate rises again to where it was at
that share of them.
"""

import argparse
import contextlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextModel

from benchmarks.nano.loop import Training, precision, start, tell
from benchmarks.nano.phrases import Phrases
from benchmarks.nano.samples import (
    COUNT,
    FULL,
    SEED,
    SIDE,
    captions,
    cells,
    encoded,
    painted_samples,
    position_pictures,
)
from texdiff.demo.looks import PARTS
from texdiff.models.nano import clip_tokenizer, make_nano_layout_net, make_scheduler, make_text_encoder, make_unet

NOISE_OFFSET = 0.3
"""Standard deviation of a constant added to each channel's noise. Without it the picture's mean shows through the
noise even at the schedule's last timestep: the U-Net then learns to read the colour there, not in the prompt, and
finds none when it starts from pure noise. Tried: without it materials came right and no colour did."""
MAPS = 1500
"""Samples whose map is shown as a picture."""
WINDOWS = ((8, 8), (16, 3), (32, 1))
"""Sides, in latent cells, of what a step may look at, and how many times as many of them as of whole pictures; all take
about as long."""
WHOLE = 32


KINDS = ("one colour", "plane", "part", "bands", "edges")
"""Of atlases: one colour all over, or a second one beyond a plane ("a white top"), on a named part, in bands, or along
edges."""
Shares = tuple[float, ...]


@dataclass(frozen=True)
class Mix:
    """What the steps look at, and what counts.

    Shares: of a batch that are `atlases`, and that have `maps`; of the atlases that are of each of KINDS; of the steps
    that see each of WINDOWS. Timesteps are drawn from `noisiest` on, a share of the schedule. `most` is the largest
    weight of a timestep: as the noise-prediction error has it, an error of the picture counts by its signal to noise
    ratio, next to nothing where colours find their places; from the middle of the schedule on it counts fully here, up
    to that weight. `means` is the weight of the error of means.
    """

    atlases: float
    maps: float
    kinds: Shares
    windows: Shares
    noisiest: float
    most: float
    means: float


PLACES = Mix(
    atlases=0.9, maps=0.8, kinds=(0.15, 0.45, 0.1, 0.2, 0.1), windows=(0.7, 0.15, 0.15), noisiest=0.6, most=20, means=4
)
"""Of the first fifth of the time. Where a colour goes is decided at the noisiest timesteps, cell by cell: a step of 128
small windows has five times as many two-colour captions with their maps as one of ALL. Tried: without, a map was worth
nothing to two-colour captions after 2,700 steps."""
ALL = Mix(
    atlases=0.5, maps=0.35, kinds=(0.25, 0.25, 0.1, 0.25, 0.15), windows=(0, 0.2, 0.8), noisiest=0, most=5, means=1
)
"""Everything, for the materials above all: with the weights of PLACES they hardly improve."""
DETAILS = Mix(
    atlases=1, maps=0.9, kinds=(0, 0.05, 0.1, 0.55, 0.3), windows=(0.3, 0.5, 0.2), noisiest=0.6, most=20, means=1
)
"""Bands and edges lie by the object's own height and box, and cover less: without steps of their own they were not
learnt in 16,000 steps."""
PLACES_SHARE = 0.2
TURNS = (ALL, DETAILS, ALL, PLACES)
"""From then on, one after the other. In one mix of all of them each paid for the others."""


class Painter(nn.Module):
    """Text encoder, U-Net and layout net as one module, so that one optimiser and one moving average hold all."""

    def __init__(self, begin: Path | None = None) -> None:
        super().__init__()
        if begin is None:
            self.text_encoder, self.unet = make_text_encoder(), make_unet()
        else:
            self.text_encoder = CLIPTextModel.from_pretrained(begin / "text_encoder").float()
            self.unet = UNet2DConditionModel.from_pretrained(begin / "unet").float()
        self.layout_net = make_nano_layout_net(self.unet)

    def forward(
        self, noisy: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor, maps: torch.Tensor
    ) -> torch.Tensor:
        """[B, 4, h, w], [B], [B, 77], [N, 3, 8 h, 8 w] -> the noise in it, [B, 4, h, w]; the first N have maps."""
        noisy, prompts, n = noisy.to(self.unet.dtype), self.text_encoder(tokens)[0], len(maps)
        residuals, middle = self.layout_net(noisy[:n], timestep[:n], prompts[:n], maps, return_dict=False)
        return self.unet(
            noisy,
            timestep,
            prompts,
            down_block_additional_residuals=[_up_to(len(noisy), residual) for residual in residuals],
            mid_block_additional_residual=_up_to(len(noisy), middle),
        ).sample


def _up_to(count: int, residual: torch.Tensor) -> torch.Tensor:
    """Zeros for those that have no map."""
    return torch.cat([residual, residual.new_zeros(count - len(residual), *residual.shape[1:])])


def batch_loss(
    painter: nn.Module,
    cumulative: torch.Tensor,
    latents: torch.Tensor,
    covered: torch.Tensor,
    tokens: torch.Tensor,
    maps: torch.Tensor,
    mix: Mix,
) -> torch.Tensor:
    """Mean squared error of the predicted noise on covered cells [B, h, w], and that of its means over the covered part
    of squares of 4 x 4 and of 8 x 8, as `mix` weights them.

    `cumulative` is the schedule's product of alphas, [1000]. Near pure noise the plain error hardly tells a wrong
    colour from a right one; the means do. All have the same optimum. A quarter of the timesteps is drawn from the
    noisier half of the schedule alone, where colour and layout are decided.
    """
    noise = torch.randn_like(latents)
    noise = noise + NOISE_OFFSET * torch.randn_like(noise[..., :1, :1])
    uniform, late = torch.rand(2, len(latents), device=latents.device)
    first = torch.where(late < 0.25, 0.5, 0.0).clamp(min=mix.noisiest)
    timestep = ((first + (1 - first) * uniform) * 1000).long()
    kept = cumulative[timestep][:, None, None, None]
    predicted = painter(kept.sqrt() * latents + (1 - kept).sqrt() * noise, timestep, tokens, maps).float()
    weight = covered[:, None].to(predicted.dtype)
    residual = (predicted - noise) * weight * ((1 - kept) / kept).clamp(1, mix.most).sqrt()
    loss = residual.square().sum()
    for side in (4, 8):
        share = F.avg_pool2d(weight, side)
        mean = F.avg_pool2d(residual, side) / share.clamp(min=1 / side**2)
        loss = loss + mix.means * (mean.square() * share).sum() * side**2
    return loss / (latents.shape[1] * weight.sum())


POSITIONS, SHOWN = "position map", 0.1
"""A caption, and of the atlases that have a map the share that has it: they show the map itself. What other captions
say of places has to be learnt from words and map at once, neither of which is of use alone; this from the map alone.
Tried: without, the net was not heard after 2,000 steps."""


def kind_of(caption: str) -> str:
    """Which of KINDS the atlas with this caption is of."""
    if " with " not in caption:
        return "one colour"
    place = caption.rsplit(" ", 1)[1]
    return {"bands": "bands", "band": "bands", "edges": "edges"}.get(place, "part" if place in NAMED else "plane")


NAMED = {part for parts in PARTS.values() for part in parts}


class Samples:
    """The samples' latents, masks, maps and captions, and batches of them."""

    def __init__(self, count: int, device: str) -> None:
        self.pictures = painted_samples(count)
        self.covered = cells(self.pictures).to(device)
        self.latents = encoded("latents", count, device, lambda: self.pictures)
        self.positions = encoded("positions", min(MAPS, count), device, lambda: position_pictures(self.pictures[:MAPS]))
        texts = captions(count)
        with tempfile.TemporaryDirectory() as folder:
            self.phrases = Phrases([*texts, POSITIONS], clip_tokenizer(Path(folder)), device)
        numbers = torch.arange(count)
        self.full, self.atlases = numbers[numbers % FULL == 0], numbers[numbers % FULL != 0]
        self.atlases = self.atlases[self.covered[self.atlases].any(dim=(1, 2)).cpu()]
        self.encoded_maps = self.atlases[self.atlases < len(self.positions)]
        self.kind = torch.tensor([KINDS.index(kind_of(texts[i])) for i in self.atlases.tolist()])
        self.device = device

    def draw(self, count: int, side: int, mix: Mix) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Windows of `side` cells of `count` samples, the first N of them with maps, atlases before full pictures:
        latents [B, 4, side, side], covered cells [B, side, side], tokens [B, 77], maps [N, 3, 8 side, 8 side]."""
        share = torch.tensor(mix.kinds) / self.kind.bincount(minlength=len(KINDS))
        atlases = self.atlases[torch.multinomial(share[self.kind], int(mix.atlases * count), replacement=True)]
        mapped = max(1, int(mix.maps * count))
        chosen = torch.cat([atlases, self.full[torch.randint(len(self.full), (count - len(atlases),))]])
        shown = (torch.rand(count) < SHOWN) & (torch.arange(count) < mapped)  # those that show their map
        chosen = torch.where(shown, self.encoded_maps[torch.randint(len(self.encoded_maps), (count,))], chosen)
        # Around a covered cell, wherever in the window it lies.
        cell = torch.multinomial(self.covered[chosen].flatten(1).float(), 1)[:, 0].cpu()
        places = torch.stack([cell // WHOLE, cell % WHOLE], 1) - torch.randint(side, (count, 2))
        places = places.clamp(0, WHOLE - side).tolist()
        windows = [(i, slice(y, y + side), slice(x, x + side)) for i, (y, x) in zip(chosen, places, strict=True)]
        pictures = [self.positions if one else self.latents for one in shown.tolist()]
        pairs = zip(pictures, windows, strict=True)
        latents = torch.stack([of[i, :, rows, columns] for of, (i, rows, columns) in pairs]).float()
        covered = torch.stack([self.covered[window] for window in windows])
        maps = [
            torch.from_numpy(self.pictures[i, 8 * y : 8 * (y + side), SIDE + 8 * x : SIDE + 8 * (x + side)].copy())
            for i, (y, x) in zip(chosen[:mapped].tolist(), places, strict=False)
        ]
        positions = torch.stack(maps).permute(0, 3, 1, 2).to(self.device).float() / 255
        said = torch.where(shown, torch.tensor(len(self.latents)), chosen)
        return latents, covered, self.phrases.draw(said.to(self.device)), positions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="all calls together, with their starts")
    parser.add_argument("--begin", type=Path, help="a pipeline folder whose text encoder and U-Net to begin with")
    parser.add_argument("--samples", type=int, default=COUNT, help="pictures to paint and encode")
    parser.add_argument("--batch", type=int, help="whole pictures a step; 128 on a GPU, 16 on a CPU where left out")
    parser.add_argument("--peak", type=float, default=1e-3, help="largest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    device = start(given.threads)
    batch = given.batch or (128 if device == "cuda" else 16)
    samples = Samples(given.samples, device)
    training = Training(
        "unet", Painter(given.begin).to(device), device, given.peak, weight_decay=0.0, average_decay=0.998
    )
    scale = training.extra.setdefault("scale", 1 / samples.latents.float().std().item())
    tell(f"{len(samples.phrases.tokens)} captions (seed {SEED}); latents scaled by {scale:.4f}")
    cumulative = make_scheduler().alphas_cumprod.to(device)

    def objective() -> tuple[torch.Tensor, torch.Tensor]:
        first = training.seconds < PLACES_SHARE * given.seconds
        mix = PLACES if first else TURNS[training.step % len(TURNS)]
        side, times = WINDOWS[int(torch.multinomial(torch.tensor(mix.windows, dtype=torch.float32), 1))]
        latents, covered, tokens, maps = samples.draw(times * batch, side, mix)
        # On a CPU, the flash attention of bfloat16 takes most of a backward pass through small windows.
        attention = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else contextlib.nullcontext()
        with precision(device), attention:
            loss = batch_loss(training.working, cumulative, latents * scale, covered, tokens, maps, mix)
        return loss, loss

    sys.exit(training.run(objective, given.seconds, 7 * batch // 3, "loss {:.4f}".format, record=False))


if __name__ == "__main__":
    main()
