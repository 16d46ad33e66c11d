"""The U-Net's training data: procedural textures, encoded once, with captions that name what they show.

    python -m benchmarks.nano.latents [--patterns N]

paints them on all cores and encodes none: to be run beside the autoencoder's training, whose GPU leaves those idle.
"""

import argparse

import numpy as np
import torch
from transformers import CLIPTokenizer

from benchmarks.nano.loop import OUT, save, tell
from benchmarks.nano.pictures import painted
from texdiff.demo.patterns import caption
from texdiff.demo.shapes import SHAPES
from texdiff.models.nano import make_vae

SEED = 1000
"""Apart from the autoencoder's seeds, so that the U-Net sees pictures of its own."""
PATTERNS = 8000


def trained_vae(device: str) -> torch.nn.Module:
    """The autoencoder of outputs/nano/vae.pt, frozen, with the very weights that are shipped."""
    vae = make_vae().to(device).eval().requires_grad_(False)
    vae.load_state_dict(torch.load(OUT / "vae.pt", map_location=device)["model"])
    return vae


def encoded_patterns(count: int, device: str) -> tuple[torch.Tensor, list[str]]:
    """Latents of `count` patterns and of their mirror images, float16 [2, count, 4, 32, 32], not scaled; and captions.

    Kept in outputs/nano, and made anew when the autoencoder's training has gone on since.
    """
    pictures, patterns = painted(count, SEED)
    step = torch.load(OUT / "vae.pt", map_location="cpu", mmap=True)["step"]
    name = f"latents-{step}-{count}.pt"
    if not (OUT / name).exists():
        vae = trained_vae(device)
        encoded = []
        with torch.no_grad():
            for part in np.array_split(pictures, -(-count // 64)):
                x = torch.from_numpy(part.copy()).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
                encoded.append(torch.stack([vae.encode(p).latent_dist.mean.half().cpu() for p in (x, x.flip(3))]))
        save(name, {"latents": torch.cat(encoded, 1)})
    tell(f"{count} patterns encoded")
    return torch.load(OUT / name)["latents"].to(device), [caption(pattern) for pattern in patterns]


class Phrases:
    """Captions as people vary them, all tokenised beforehand; one in ten is empty, for classifier-free guidance."""

    def __init__(self, captions: list[str], tokenizer: CLIPTokenizer, device: str) -> None:
        different = list(dict.fromkeys(captions))
        # (how the caption is put, how often)
        ways = [("", 0.10), ("{}", 0.50), ("{} texture", 0.15), *(("{} " + s, 0.15 / len(SHAPES)) for s in SHAPES)]
        ways.append(("a texture of {}", 0.10))
        texts = [way.format(text) for text in different for way, _ in ways]
        tokens = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        self.tokens = tokens.view(len(different), len(ways), 77).to(device)
        position = {text: i for i, text in enumerate(different)}
        self.caption = torch.tensor([position[text] for text in captions], device=device)
        self.cumulative = torch.tensor([share for _, share in ways], device=device).cumsum(0)

    def draw(self, chosen: torch.Tensor) -> torch.Tensor:
        """Tokens [B, 77] of the captions of the patterns `chosen` [B]."""
        uniform = torch.rand(len(chosen), device=chosen.device)
        way = torch.searchsorted(self.cumulative, uniform).clamp(max=len(self.cumulative) - 1)
        return self.tokens[self.caption[chosen], way]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patterns", type=int, default=PATTERNS)
    OUT.mkdir(parents=True, exist_ok=True)
    painted(parser.parse_args().patterns, SEED)


if __name__ == "__main__":
    main()
