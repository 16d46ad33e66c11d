"""What an inpainting base is told of textures: which texels it is to draw, and what the encoder makes of the others."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from texdiff.data.cache.encoders import Encoders, ahead, prepare_texture
from texdiff.data.cache.encodings import Array, texel_weights
from texdiff.data.cache.keys import Keys, as_keys, each, key_of
from texdiff.data.cache.store import Arrays
from texdiff.data.record import Record, texels_of
from texdiff.uv.hiding import Hiding, known_pixels


def known_keys(texture_keys: Keys, hiding: Hiding) -> Keys:
    """The key of each variant of each texture, [n * hiding.count]."""
    return as_keys(
        key_of("known", hiding.mode, key, number) for key in each(texture_keys) for number in range(hiding.count)
    )


def encode_known(
    choices: Sequence[tuple[Record, int]],
    encoders: Encoders,
    device: torch.device,
    *,
    resolution: int,
    background: str | int,
) -> Iterator[Arrays]:
    """For each record and variant: known float32 [1 + C, h, w], see `join`. One image at a time, as on a CPU nothing is
    gained by more."""
    assert encoders.hiding is not None, "no inpainting base"
    hiding = encoders.hiding

    def prepare(choice: tuple[Record, int]) -> tuple[NDArray[np.bool_], torch.Tensor]:
        record, variant = choice
        image, entry = prepare_texture(record, resolution, background)
        covered = texel_weights(entry["mask"]) > 0
        hidden = hiding.hidden(covered, variant)
        pixels = known_pixels(texels_of(image), covered, hidden, background)
        return hidden, torch.from_numpy(pixels).permute(2, 0, 1)

    for hidden, pixels in ahead(prepare, choices):
        mean, _ = encoders.encode_images(pixels[None])
        yield {"known": join(hidden, mean[0].float().cpu().numpy(), encoders.latent_factor)}


def join(hidden: NDArray[np.bool_], mean: Array, factor: int) -> Array:
    """float32 [1 + C, h, w]: 1 in the latent cells whose top left texel is hidden, which is how diffusers' pipelines
    bring a mask to latent size; and the mean of the posterior of what is known, not scaled, [C, h, w]."""
    return np.concatenate([hidden[None, ::factor, ::factor].astype(np.float32), mean])
