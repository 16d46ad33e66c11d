"""What the trainings of `nano` look at: real pictures from folders, and procedural textures, painted on all cores."""

import fcntl
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from benchmarks.nano.loop import OUT, tell
from texdiff.demo.patterns import paint, random_pattern

SIDE = 384
"""Longest side, in texels, that a picture keeps."""


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


def training_pictures(folders: list[Path]) -> list[tuple[np.ndarray, str]]:
    """(uint8 RGB picture, kind) of every real picture to train with, at most 384 texels long."""
    found = []
    for folder in folders:
        packed = (folder / "index.json").exists()
        found += _packed(folder) if packed else [(p, folder.name) for p in _loose(folder)]
    return found


def _packed(folder: Path) -> list[tuple[np.ndarray, str]]:
    """Those of a folder with index.json (a list of objects with offset, length, kind) and pictures.bin."""
    records = json.loads((folder / "index.json").read_text("utf-8"))
    content = np.memmap(folder / "pictures.bin", np.uint8, "r")

    def decode(record: dict[str, int]) -> np.ndarray | None:
        picture = cv2.imdecode(content[record["offset"] : record["offset"] + record["length"]], cv2.IMREAD_COLOR)
        return None if picture is None else picture[..., ::-1]

    with ThreadPoolExecutor(_cores()) as pool:  # cv2 lets other threads work meanwhile
        pictures = pool.map(decode, records)
        return [(p, r["kind"]) for p, r in zip(pictures, records, strict=True) if p is not None]


def _loose(folder: Path) -> list[np.ndarray]:
    """Those of a folder of picture files that are not held out and do not resemble one that is, each once."""
    kept, evaluation, digests = [], [], set()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".png", ".jpg", ".jpeg"}):
        picture = read(path)
        if picture is None or (digest := hashlib.sha256(picture.tobytes()).digest()) in digests:
            continue
        digests.add(digest)
        if held_out(picture):
            evaluation.append(thumbnail(picture))
            continue
        scale = SIDE / max(picture.shape[:2])
        kept.append(
            cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        )
    apart = [all(np.abs(thumbnail(p) - e).mean() > 0.02 for e in evaluation) for p in kept]
    tell(f"{folder}: {sum(apart)} pictures, {len(evaluation)} held out, {apart.count(False)} too like those")
    return [picture for picture, far in zip(kept, apart, strict=True) if far]


def painted(count: int, seed: int) -> np.ndarray:
    """`count` procedural textures, uint8 [count, 256, 256, 3] in a file. Painted on all cores and kept."""
    return on_all_cores(f"painted-{seed}-{count}", (count, 256, 256, 3), _paint, seed)


def on_all_cores(
    name: str, shape: tuple[int, ...], fill: Callable[[np.ndarray, int, int], None], seed: int
) -> np.ndarray:
    """A uint8 array of this shape, in NAME.npy of the output folder, whose entries `fill(array, seed, number)` has set.

    Made on all cores where it isn't there yet. Two programs may ask for the same at once; for others they don't wait.
    """
    path = OUT / f"{name}.npy"
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_suffix(".part")
            np.lib.format.open_memmap(part, "w+", np.uint8, shape)
            # Forked, since a fresh interpreter would load torch first; before anything runs on a GPU.
            with ProcessPoolExecutor(_cores(), multiprocessing.get_context("fork")) as pool:
                numbers = range(shape[0])
                made = pool.map(_fill_one, repeat(fill), repeat(part), repeat(seed), numbers, chunksize=16)
                for _ in tqdm(made, name, total=shape[0], mininterval=10):
                    pass
            os.replace(part, path)
    return np.load(path, mmap_mode="r")


def _fill_one(fill: Callable[[np.ndarray, int, int], None], file: Path, seed: int, number: int) -> None:
    cv2.setNumThreads(1)
    fill(np.lib.format.open_memmap(file, "r+"), seed, number)


def _paint(array: np.ndarray, seed: int, number: int) -> None:
    rng = np.random.default_rng((seed, number))
    array[number] = paint(random_pattern(rng), 256, rng)


def _cores() -> int:
    return len(os.sched_getaffinity(0))
