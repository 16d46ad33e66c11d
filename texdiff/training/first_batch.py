"""A picture of the first batch: what the model is about to see, and what of it counts."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from texdiff.config import TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.diffusion.draws import SampleKey
from texdiff.files import write_atomic

GAP, MOST = 8, 8


def draw_first_batch(textures: LatentDataset, keys: Sequence[SampleKey], config: TrainingConfig, run: Path) -> None:
    """Write RUN/first_batch.png, one row a texture: the texture as the VAE gets it, its mask, and the texture under its
    latent mask, where texels that do not count are red, and blue where the base model's own prediction is asked for.
    The masks are those that training reads, from the cache."""
    rows = []
    resolution = config.data.resolution
    for _, index in keys[:MOST]:
        picture, mask = textures.records[index].model_input(resolution, config.data.background)
        texture = ((picture.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
        cells = textures.cells(index)
        side = resolution // cells.target.shape[1]
        # Weights by surface go beyond 1.
        target, outside = (np.kron(w[0].clip(0, 1), np.ones((side, side)))[..., None] for w in cells[:2])
        if config.mask.outside == "nothing":
            target, outside = target + outside, 0 * outside
        blue, red = (0.25 * texture + np.array(colour) for colour in ((0, 0, 120), (120, 0, 0)))
        counted = texture * target + blue * outside + red * (1 - target - outside)
        white = np.repeat(np.uint8(255) * mask[..., None].astype(np.uint8), 3, axis=2)
        gap = np.full((resolution, GAP, 3), 255, np.uint8)
        rows.append(np.hstack([texture, gap, white, gap, counted.round().clip(0, 255).astype(np.uint8)]))
        rows.append(np.full((GAP, rows[0].shape[1], 3), 255, np.uint8))
    file = io.BytesIO()
    Image.fromarray(np.vstack(rows[:-1])).save(file, "PNG")
    write_atomic(run / "first_batch.png", file.getvalue())
