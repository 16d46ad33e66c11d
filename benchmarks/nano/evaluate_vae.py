"""How well an autoencoder rebuilds atlases of packages that it has not seen, by kind: PSNR inside the mask.

    python -m benchmarks.nano.evaluate_vae [DATA] [--model FOLDER] [--figures FILE]

DATA is what collect.py wrote (outputs/nano-data where left out): DATA/heldout/KIND/NAME.png, 256 x 256 texels, void
filled, with NAME.mask.png, and DATA/train. FOLDER is a pipeline's or an AutoencoderKL's, or a state dict such as
outputs/nano/vae.pt; texdiff's own nano where left out.

Beside it stands what a plain linear code of the same size keeps: 8 x 8 x 3 texels as their mean over the training
pictures plus 4 principal components of those, neither rounded nor with noise.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.nano.pictures import training_pictures
from texdiff.models.nano import make_vae, nano_folder

BLOCK, CHANNELS, SIDE = 8, 4, 256
Floats = NDArray[np.float64]


def load(model: Path | None) -> AutoencoderKL:
    """The autoencoder of a pipeline folder, of its own folder, or of a state dict ({"model": ...} too)."""
    model = model or nano_folder()
    if model.is_file():
        state, vae = torch.load(model, map_location="cpu"), make_vae()
        vae.load_state_dict(state.get("model", state))
        return vae.eval()
    subfolder = "vae" if (model / "vae").is_dir() else None
    return AutoencoderKL.from_pretrained(model, subfolder=subfolder, torch_dtype=torch.float32).eval()


def held_out_atlases(folder: Path) -> dict[str, list[tuple[NDArray[np.uint8], NDArray[np.bool_]]]]:
    """(picture uint8 RGB [256, 256, 3], mask bool [256, 256]) by kind."""
    found = {}
    for kind in sorted(p for p in folder.iterdir() if p.is_dir()):
        masks = sorted(kind.glob("*.mask.png"))
        found[kind.name] = [
            (
                cv2.imread(str(mask.with_name(mask.name.removesuffix(".mask.png") + ".png")))[..., ::-1].copy(),
                cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 127,
            )
            for mask in masks
        ]
    return found


def blocks(picture: NDArray[np.uint8]) -> Floats:
    """The picture's blocks [N, 192], in [0, 1]; what is over at the right and the bottom is left out."""
    height, width = (n // BLOCK for n in picture.shape[:2])
    cut = picture[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK, 3)
    return cut.transpose(0, 2, 1, 3, 4).reshape(height * width, -1) / 255


def components(pictures: list[NDArray[np.uint8]]) -> tuple[Floats, Floats]:
    """Mean [192] and the first principal components [4, 192] of the pictures' blocks, longest side 256 texels.

    Every picture weighs the same, whatever its size.
    """
    count, mean, square = len(pictures), np.zeros(192), np.zeros((192, 192))
    for picture in tqdm(pictures, "principal components", disable=None):
        scale = SIDE / max(picture.shape[:2])
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        found = blocks(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=interpolation))
        mean += found.mean(0) / count
        square += found.T @ found / len(found) / count
    _, vectors = np.linalg.eigh(square - np.outer(mean, mean))
    return mean, vectors[:, : -CHANNELS - 1 : -1].T


def project(picture: NDArray[np.uint8], mean: Floats, vectors: Floats) -> Floats:
    """The picture, [256, 256, 3] in [0, 1], as its blocks' components give it back."""
    kept = (blocks(picture) - mean) @ vectors.T @ vectors + mean
    grid = SIDE // BLOCK
    return kept.reshape(grid, grid, BLOCK, BLOCK, 3).transpose(0, 2, 1, 3, 4).reshape(SIDE, SIDE, 3).clip(0, 1)


@torch.no_grad()
def rebuild(picture: NDArray[np.uint8], vae: AutoencoderKL) -> Floats:
    """The picture, [256, 256, 3] in [0, 1], decoded from its posterior's mean."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    decoded = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
    return (decoded[0].permute(1, 2, 0).double().numpy() + 1) / 2


def psnr(rebuilt: Floats, picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> float:
    """Decibels, over the covered texels and the three channels."""
    return float(-10 * np.log10(np.square(rebuilt - picture / 255)[mask].mean()))


def summary(rows: list[tuple[float, float]]) -> dict[str, float | int]:
    ours, plain = np.array(rows).T
    low, middle, high = np.percentile(ours, [25, 50, 75])
    figures = {"vae": middle, "vae_quartile_1": low, "vae_quartile_3": high, "pca": np.median(plain)}
    return {"atlases": len(rows), **{name: round(float(value), 2) for name, value in figures.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=Path("outputs/nano-data"))
    parser.add_argument("--model", type=Path, help="pipeline folder, autoencoder folder or state dict")
    parser.add_argument("--figures", type=Path, help="where to write the table as JSON")
    given = parser.parse_args()
    vae = load(given.model)
    mean, vectors = components([picture for picture, _ in training_pictures([given.data / "train"])])
    rows: dict[str, list[tuple[float, float]]] = {}
    for kind, atlases in held_out_atlases(given.data / "heldout").items():
        rows[kind] = [
            (psnr(rebuild(picture, vae), picture, mask), psnr(project(picture, mean, vectors), picture, mask))
            for picture, mask in tqdm(atlases, kind, disable=None)
        ]
    table = {kind: summary(found) for kind, found in rows.items()}
    table["all"] = summary([row for found in rows.values() for row in found])
    table["all but furniture"] = summary([row for kind, found in rows.items() for row in found if kind != "furniture"])
    print("PSNR inside the mask at 256 x 256 texels, dB: medians, with the quartiles of the autoencoder")
    print(f"{'kind':<20}{'atlases':>8}{'autoencoder':>13}{'quartiles':>15}{'4 components':>14}")
    for kind, found in table.items():
        quartiles = f"{found['vae_quartile_1']:.1f}, {found['vae_quartile_3']:.1f}"
        print(f"{kind:<20}{found['atlases']:>8}{found['vae']:>13.2f}{quartiles:>15}{found['pca']:>14.2f}")
    if given.figures:
        given.figures.write_text(json.dumps(table, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
