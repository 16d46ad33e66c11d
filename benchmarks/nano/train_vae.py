"""Train the autoencoder of `nano`: the first step.

    python -m benchmarks.nano.train_vae --seconds 240 [--pictures FOLDER ...]

FOLDERs hold real pictures, as files or as index.json and pictures.bin. Writes vae.pt and vae-training.pt in
outputs/nano (or $NANO_OUT) every 15 s and continues from them when started again; with more seconds than before, the
learning rate rises again to where it was at that share of them.
"""

import argparse
import math
import sys
from collections import Counter
from itertools import chain
from pathlib import Path
from statistics import median

import cv2
import torch
from diffusers import AutoencoderKL

from benchmarks.nano.evaluate_vae import held_out_atlases, psnr
from benchmarks.nano.loop import Training, precision, start, tell
from benchmarks.nano.pictures import painted, training_pictures
from benchmarks.nano.pool import Pool
from benchmarks.nano.widen import begin_with
from texdiff.models.nano import make_vae

KL_WEIGHT = 1e-5
REAL = 0.75
"""Share of the real pictures among those drawn."""


def pool_of(folders: list[Path], synthetic: int, device: str) -> Pool:
    """All pictures; of the real ones, a kind with four times the pictures is seen twice as often."""
    real, paintings = training_pictures(folders), painted(synthetic, seed=0)
    kinds = Counter(kind for _, kind in real)
    total = sum(count**0.5 for count in kinds.values())
    weighted = [(picture, REAL / total / kinds[kind] ** 0.5) for picture, kind in real]
    pool = Pool([*weighted, *((p, (1 - REAL) / synthetic) for p in paintings)], device)
    tell(f"{len(real)} real pictures ({dict(kinds)}), {synthetic} painted ones: {pool.texels.numel() / 1e9:.2f} GB")
    return pool


def loss_of(vae: AutoencoderKL, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(what is minimised, mean squared error) of pictures [B, 3, H, W] in [-1, 1].

    Not to be compiled: under torch.compile the posterior's variance ran away (README.md).
    """
    posterior = vae.encode(pictures.to(vae.dtype)).latent_dist
    rebuilt = vae.decode(posterior.sample()).sample.float()
    squared = (rebuilt - pictures).square().mean((1, 2, 3))
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    # PSNR is a logarithm, so a smooth texture counts as much as a rough one; the 1e-3 (33 dB) ends that for plain ones.
    return 0.07 * (squared + 1e-3).log().mean() + KL_WEIGHT * kl, squared.detach().mean()


@torch.no_grad()
def psnr_by_kind(vae: AutoencoderKL, folder: Path) -> dict[str, list[float]]:
    """PSNR in dB, inside the mask, of each held-out atlas as rebuilt from its posterior's mean."""
    found: dict[str, list[float]] = {}
    for kind, atlases in held_out_atlases(folder).items():
        for picture, mask in atlases:
            x = torch.from_numpy(picture).to(vae.device).permute(2, 0, 1)[None].float() / 127.5 - 1
            rebuilt = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
            texels = (rebuilt[0].permute(1, 2, 0).double().cpu().numpy() + 1) / 2
            found.setdefault(kind, []).append(psnr(texels, picture, mask))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True, help="all calls together, with their starts")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help="folders of real pictures")
    parser.add_argument("--held_out", type=Path, help="collect.py's folder of atlases to judge by at the end")
    parser.add_argument("--begin", type=Path, help="where nothing is trained yet: the vae/ to begin with")
    parser.add_argument("--synthetic", type=int, default=1500, help="procedural pictures among them")
    parser.add_argument("--batch", type=int, help="crops a step; 16 on a GPU, 8 on a CPU where left out")
    parser.add_argument("--side", type=int, help="of a crop, in texels; 256 on a GPU, 128 on a CPU where left out")
    parser.add_argument("--peak", type=float, default=1.5e-3, help="largest learning rate")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    cv2.setNumThreads(1)
    device = start(given.threads)
    batch, side = given.batch or (16 if device == "cuda" else 8), given.side or (256 if device == "cuda" else 128)
    pool = pool_of(given.pictures, given.synthetic, device)
    vae = (begin_with(given.begin) if given.begin else make_vae()).to(device, memory_format=torch.channels_last)
    training = Training("vae", vae, device, given.peak, weight_decay=1e-4, average_decay=0.998)

    def objective() -> tuple[torch.Tensor, torch.Tensor]:
        pictures = pool.draw(batch, side)
        with precision(device):
            return loss_of(training.working, pictures)

    words = "PSNR {:.2f} dB".format
    status = training.run(objective, given.seconds, batch, lambda error: words(10 * math.log10(4 / error)))
    if given.held_out:
        found = psnr_by_kind(training.average, given.held_out)
        for kind, values in found.items():
            tell(f"held out, {kind}: median {median(values):.2f} dB of {len(values)}")
        tell(f"held out, all: median {median(chain.from_iterable(found.values())):.2f} dB")
    sys.exit(status)


if __name__ == "__main__":
    main()
