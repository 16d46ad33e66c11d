"""What the autoencoder of `nano` looks at: procedural textures, and real ones where a folder of them is given."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from texdiff.demo.patterns import paint, random_look

SIDE = 512
"""Longest side, in texels, that a picture keeps in memory."""


def held_out(picture: np.ndarray) -> bool:
    """Whether this picture (uint8 RGB [H, W, 3], source texels) belongs to the quarter kept for evaluation.

    Decided by its content alone, so that the same texture is on one side whatever file it comes from.
    """
    return hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).digest()[0] % 4 == 0


def read(path: Path) -> np.ndarray | None:
    """uint8 RGB [H, W, 3], or None for what cv2 can't read or what is smaller than 64 texels."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    return None if picture is None or min(picture.shape[:2]) < 64 else picture[..., ::-1].copy()


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """Float [8 * 8 * 3]: enough to know a picture again after resizing or another compression."""
    return cv2.resize(picture, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32).ravel() / 255


def training_pictures(folders: list[Path], synthetic: int, seed: int) -> list[np.ndarray]:
    """Real pictures that are not held out and do not resemble one that is, each once, then `synthetic` painted ones."""
    kept, kept_thumbnails, evaluation, digests = [], [], [], set()
    paths = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg"})
    for path in tqdm(paths, "read"):
        picture = read(path)
        if picture is None:
            continue
        digest = hashlib.sha256(picture.tobytes()).digest()
        if digest in digests:
            continue
        digests.add(digest)
        if held_out(picture):
            evaluation.append(thumbnail(picture))
            continue
        scale = SIDE / max(picture.shape[:2])
        if scale < 1:
            picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        kept.append(picture)
        kept_thumbnails.append(thumbnail(picture))
    apart = [all(np.abs(t - e).mean() > 0.02 for e in evaluation) for t in kept_thumbnails]
    kept = [picture for picture, far in zip(kept, apart, strict=True) if far]
    print(f"{len(kept)} real pictures for training, {len(evaluation)} held out, {apart.count(False)} too like those")
    for i in tqdm(range(synthetic), "paint"):
        rng = np.random.default_rng((seed, i))
        kept.append(paint(random_look(rng), 256, rng))
    return kept


def crops(pictures: list[np.ndarray], real: int, count: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """`count` square crops, uint8 [count, side, side, 3]; three of four from the first `real` pictures.

    Each shows its picture at about the size it has when an atlas is resized to 256 texels, or a little larger.
    """
    out = np.empty((count, side, side, 3), np.uint8)
    for i in range(count):
        pool = range(real) if real and rng.random() < 0.75 else range(real, len(pictures))
        picture = pictures[pool[int(rng.integers(len(pool)))]]
        height, width = picture.shape[:2]
        across = rng.choice([256, 256, 320, 384]) if max(height, width) > 300 else 256
        window = min(round(side / across * max(height, width)), height, width)
        y, x = rng.integers(0, height - window + 1), rng.integers(0, width - window + 1)
        crop = picture[y : y + window, x : x + window]
        crop = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if window >= side else cv2.INTER_CUBIC)
        crop = np.rot90(crop, int(rng.integers(4)))
        out[i] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return out
