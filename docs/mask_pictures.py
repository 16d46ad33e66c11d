"""Draw docs/pictures/mask.png: what becomes of an atlas and its mask, on a mesh that texdiff's demo makes.

    python docs/mask_pictures.py

First row: the atlas, its mask, the void filled, and the mesh's surface on each texel. Second row: the cells that count
at latent size, at the modes of mask.downsample. Third row: by how much nano's latents change, relative to how much they
vary, when the same islands lie on black, on magenta and on noise instead of the filled void.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from texdiff import load_base
from texdiff.demo.make import write_meshes
from texdiff.diffusion.mask import downsample
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.gutter import fill
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.texel_area import texel_area

SIZE, GAP, LINE = 256, 10, 18


def draw() -> Image.Image:
    """The picture, RGB."""
    with tempfile.TemporaryDirectory() as folder:
        mesh = write_meshes(Path(folder), count=5, seed=0, size=SIZE)[4]
        (atlas,) = read_atlases(mesh).atlases
        texture = np.asarray(atlas.texture)[..., :3]
    mask = coverage_mask(atlas.triangles, (SIZE, SIZE))
    area = texel_area(atlas.triangles, atlas.mesh_area, (SIZE, SIZE))
    filled = fill(texture, mask)
    rows = [
        [
            ("atlas", texture),
            ("mask", np.where(mask, 255, 0)),
            ("void filled", filled),
            ("surface of each texel", np.sqrt(area / area.max()) * 255),
        ],
        _latent_masks(mask),
        _leaks(filled, mask),
    ]
    width, height = 4 * (SIZE + GAP) - GAP, len(rows) * (SIZE + LINE + GAP) - GAP
    page = Image.new("RGB", (width, height), (232, 232, 232))
    for number, row in enumerate(rows):
        for column, (name, values) in enumerate(row):
            left, top = column * (SIZE + GAP), number * (SIZE + LINE + GAP)
            ImageDraw.Draw(page).text((left, top + 2), name, "black")
            page.paste(_image(values), (left, top + LINE))
    return page


def _latent_masks(mask: np.ndarray) -> list[tuple[str, np.ndarray]]:
    texels = torch.from_numpy(mask)[None, None].float()
    shown = []
    for mode in ("nearest", "area", "any", "all"):
        cells = downsample(texels, (SIZE // 8, SIZE // 8), mode)[0, 0].numpy()  # [h, w]
        counted = np.kron(cells, np.ones((8, 8)))[mask].mean()  # each texel's weight is its cell's
        shown.append((f"{mode}: {counted:.0%} of covered texels count", cells * 255))
    return shown


def _leaks(filled: np.ndarray, mask: np.ndarray) -> list[tuple[str, np.ndarray]]:
    base, rng = load_base("nano"), np.random.default_rng(0)
    noise = rng.integers(0, 256, filled.shape, dtype=np.uint8)
    voids = {
        "black": np.zeros_like(noise),
        "magenta": np.broadcast_to(np.uint8([255, 0, 255]), noise.shape),
        "noise": noise,
    }
    latents = {name: _encode(base.vae, np.where(mask[..., None], filled, void)) for name, void in voids.items()}
    reference = _encode(base.vae, filled)
    inside = downsample(torch.from_numpy(mask)[None, None].float(), reference.shape[-2:], "all")[0, 0] > 0
    shown: list[tuple[str, np.ndarray]] = []
    for name, changed in latents.items():
        difference = (changed - reference).norm(dim=0) / reference[:, inside].std(dim=1).norm()  # [h, w]
        values = torch.where(inside, difference.clamp(max=1), torch.nan).numpy() * 255
        shown.append((f"latents of islands on {name}: {difference[inside].mean():.0%} off", values))
    return shown


def _encode(vae: torch.nn.Module, texture: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(texture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        return vae.encode(pixels).latent_dist.mean[0]  # [C, h, w]


def _image(values: np.ndarray) -> Image.Image:
    """SIZE x SIZE px; nothing (NaN) is light blue."""
    values = np.stack([values] * 3, -1) if values.ndim == 2 else values
    values = np.where(np.isnan(values), np.float64([200, 220, 240]), values)
    return Image.fromarray(values.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.NEAREST)


if __name__ == "__main__":
    draw().save(Path(__file__).parent / "pictures/mask.png", optimize=True)
