"""How well the autoencoder rebuilds real atlases that it has not seen, inside the mask, at 256 texels a side.

    python -m benchmarks.nano.evaluate_vae DATASET --furniture FOLDER ... [--model FOLDER]

DATASET is what `texdiff prepare` wrote; FOLDERs are those that the training read. An atlas counts as unseen where its
8 x 8 thumbnail differs from that of every training picture by more than 0.02 of the range, on average.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.nano.latents import trained_vae
from benchmarks.nano.pictures import thumbnail, training_pictures
from texdiff.uv.gutter import fill


def unseen(dataset: Path, folders: list[Path]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(picture uint8 [256, 256, 3] with its void filled, mask bool [256, 256]) of every unseen atlas."""
    seen = np.stack([thumbnail(picture) for picture in training_pictures(folders, 0, seed=0)])
    found = []
    for part in ("train", "validation"):
        for line in (dataset / part / "metadata.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            picture = cv2.imread(str(dataset / part / record["file_name"]))[..., ::-1]
            mask = cv2.imread(str(dataset / part / record["mask_file_name"]), cv2.IMREAD_GRAYSCALE)
            if np.abs(seen - thumbnail(np.ascontiguousarray(picture))).mean(1).min() <= 0.02:
                continue
            small = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
            covered = cv2.resize(mask, (256, 256), interpolation=cv2.INTER_NEAREST) > 127
            found.append((fill(small, covered), covered))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--furniture", type=Path, nargs="*", default=[])
    parser.add_argument("--model", type=Path, help="a pipeline folder; outputs/nano/vae.pt where left out")
    given = parser.parse_args()
    if given.model:
        from diffusers import AutoencoderKL

        vae = AutoencoderKL.from_pretrained(given.model, subfolder="vae", torch_dtype=torch.float32)
    else:
        vae = trained_vae("cpu")
    torch.set_num_threads(1)
    psnr = []
    for picture, mask in tqdm(unseen(given.dataset, given.furniture), "rebuild"):
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            rebuilt = vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        error = (rebuilt - x)[0].square().mean(0).numpy()[mask].mean()
        psnr.append(10 * np.log10(4 / error))
    quartiles = np.percentile(psnr, [25, 50, 75])
    print(f"PSNR inside the mask on {len(psnr)} unseen atlases: median {quartiles[1]:.2f} dB, ", end="")
    print(f"quartiles {quartiles[0]:.2f} and {quartiles[2]:.2f}")


if __name__ == "__main__":
    main()
