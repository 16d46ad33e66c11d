"""Images through an autoencoder in overlapping tiles of the size that it was trained on, blended over the overlap.

Memory is that of one tile, beside image and latents, and attention over all cells of a large image never happens.
"""

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from texdiff.inference.sampler import to_bytes
from texdiff.inference.windows import window_grid
from texdiff.models.stable_diffusion import mean_latents


def encode_tiled(vae: AutoencoderKL, image: NDArray[np.uint8], side: int) -> Tensor:
    """The latents [1, C, h, w] of an image [H, W, 3], as `mean_latents`, by tiles of `side` cells."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    cells = image.shape[0] // factor, image.shape[1] // factor
    total = torch.zeros(1, vae.config.latent_channels, *cells)
    weights = torch.zeros(cells)
    grid = window_grid(torch.ones(cells, dtype=torch.bool), side)
    for tile in tqdm(grid, unit="tile", desc="encoding", disable=len(grid) == 1):
        rows, columns = tile.cells(factor)
        pixels = torch.from_numpy(image[rows, columns]).permute(2, 0, 1)[None].float() / 127.5 - 1
        rows, columns = tile.cells()
        total[..., rows, columns] += tile.weight() * mean_latents(vae, pixels).float().cpu()
        weights[rows, columns] += tile.weight()
    return (total / weights).to(vae.device, vae.dtype)


@torch.no_grad()
def decode_tiled(vae: AutoencoderKL, latents: Tensor, side: int, wanted: Tensor) -> NDArray[np.uint8]:
    """The image [H, W, 3] of latents [1, C, h, w], by those tiles of `side` cells that hold any cell of `wanted`, bool
    [h, w]; grey where there is none. Raises InputError for values that are not finite."""
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    dtype = vae.dtype
    if dtype == torch.float16:  # in which Stable Diffusion XL's decoder gives NaN
        vae.to(torch.float32)
    total = np.zeros((wanted.shape[0] * factor, wanted.shape[1] * factor, 3), np.float32)
    weights = np.zeros((*total.shape[:2], 1), np.float32)
    grid = window_grid(wanted, side)
    for tile in tqdm(grid, unit="tile", desc="decoding", disable=len(grid) == 1):
        rows, columns = tile.cells()
        part = latents[..., rows, columns].to(vae.dtype) / vae.config.scaling_factor
        pixels = vae.decode(part).sample[0].permute(1, 2, 0).float().cpu().numpy()
        rows, columns = tile.cells(factor)
        weight = tile.weight(factor).numpy()[..., None]
        total[rows, columns] += weight * pixels
        weights[rows, columns] += weight
    vae.to(dtype)
    return to_bytes(np.clip(total / np.maximum(weights, 1e-6) / 2 + 0.5, 0, 1))
