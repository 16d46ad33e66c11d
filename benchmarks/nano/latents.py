"""The U-Net's training data: procedural textures, encoded once, with captions that name what they show."""

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.nano.loop import OUT, save
from texdiff.demo.patterns import caption, paint, random_look
from texdiff.demo.shapes import SHAPES
from texdiff.training.nano import make_vae

SEED = 1000
"""Apart from the autoencoder's seeds, so that the U-Net sees pictures of its own."""


def trained_vae(device: str) -> torch.nn.Module:
    """The autoencoder of outputs/nano/vae.pt, frozen."""
    vae = make_vae().to(device).eval().requires_grad_(False)
    vae.load_state_dict(torch.load(OUT / "vae.pt", map_location=device)["model"])
    return vae


def encoded_looks(count: int, device: str, rank: int, ranks: int) -> tuple[torch.Tensor, list[str]]:
    """This rank's part of `count` looks: latents float16 [N, 4, 32, 32], not yet scaled, and captions.

    Kept in outputs/nano/, and made anew when the autoencoder's training has gone on since.
    """
    step = torch.load(OUT / "vae.pt", map_location="cpu", mmap=True)["step"]
    name = f"latents-{step}-{count}-{rank}of{ranks}.pt"
    if not (OUT / name).exists():
        vae = trained_vae(device)
        latents, looks = [], []
        for first in tqdm(range(rank * 8, count, ranks * 8), "encode", mininterval=10, disable=rank > 0):
            pictures = []
            for i in range(first, min(first + 8, count)):
                rng = np.random.default_rng((SEED, i))
                looks.append(random_look(rng))
                pictures.append(paint(looks[-1], 256, rng))
            x = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.no_grad():
                latents.append(vae.encode(x).latent_dist.mean.half().cpu())
        save(name, {"latents": torch.cat(latents), "captions": [caption(look) for look in looks]})
    state = torch.load(OUT / name)
    return state["latents"], state["captions"]


def phrase(text: str, rng: np.random.Generator) -> str:
    """A caption as people vary it; one in ten is empty, for classifier-free guidance."""
    drawn = rng.random()
    if drawn < 0.10:
        return ""
    if drawn < 0.60:
        return text
    if drawn < 0.75:
        return f"{text} texture"
    if drawn < 0.90:
        return f"{text} {list(SHAPES)[rng.integers(len(SHAPES))]}"
    return f"a texture of {text}"
