"""A picture of the first batch: what the model is about to see, and what of it counts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.diffusion.noise import SampleKey

GAP, MOST = 8, 8


def draw_first_batch(textures: LatentDataset, keys: Sequence[SampleKey], config: TrainingConfig, run: Path) -> None:
    """Write RUN/first_batch.png, one row a texture: the texture as the VAE gets it, its mask, and the texture under its
    latent mask, where texels that do not count are red. The masks are those that training reads, from the cache."""
    rows = []
    resolution = config.data.resolution
    for _, index in keys[:MOST]:
        picture, mask = textures.records[index].model_input(resolution, config.data.background)
        texture = ((picture.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        latent = textures.mask(index)[0].numpy().clip(max=1)  # by surface, some count for several
        cell = resolution // latent.shape[0]
        weight = np.kron(latent, np.ones((cell, cell)))[..., None]
        counted = texture * weight + (0.25 * texture + (120, 0, 0)) * (1 - weight)
        white = np.repeat(np.uint8(255) * mask[..., None].astype(np.uint8), 3, axis=2)
        gap = np.full((resolution, GAP, 3), 255, np.uint8)
        rows.append(np.hstack([texture, gap, white, gap, counted.round().astype(np.uint8)]))
        rows.append(np.full((GAP, rows[0].shape[1], 3), 255, np.uint8))
    Image.fromarray(np.vstack(rows[:-1])).save(run / "first_batch.png")
