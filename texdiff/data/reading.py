"""First station of `prepare`, in a worker: an asset -> its textures and UV triangles, as files.

Files of one asset: `assets/KEY/N.npy` (triangles, float64 [F, 3, 2]) and `assets/KEY/found.json`, which is written
last: where it is there, the asset has been read. Textures go to `pictures/CONTENT.png`, one per content.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from texdiff.data.captions import one_line
from texdiff.uv.mesh import read_textures


@dataclass(frozen=True)
class ReadJob:
    """Read the asset at `path`; put what is found into `folder` / "assets" / `key`."""

    path: Path
    key: str
    folder: Path


def read(job: ReadJob) -> None:
    """Do one ReadJob. Raises InputError where the file as a whole can't be read."""
    place = job.folder / "assets" / job.key
    shutil.rmtree(place, ignore_errors=True)  # what a crashed reader left
    place.mkdir(parents=True)
    found = read_textures(job.path)
    textures = []
    for number, atlas in enumerate(found.atlases):
        content = content_hash(atlas.texture)
        write_png(atlas.texture, job.folder / "pictures" / f"{content}.png")
        np.save(place / f"{number}.npy", atlas.triangles)
        textures.append({"content": content, "name": atlas.name, "uses": f"assets/{job.key}/{number}.npy"})
    set_aside = [{"name": aside.name, "reason": one_line(aside.reason)} for aside in found.set_aside]
    record(job.folder, job.key, textures, set_aside)


def record(folder: Path, key: str, textures: list[dict], set_aside: list[dict]) -> None:
    """Write an asset's found.json: whole or not at all."""
    text = json.dumps({"textures": textures, "set_aside": set_aside})
    write_whole(folder / "assets" / key / "found.json", text.encode())


def content_hash(texture: np.ndarray) -> str:
    """SHA-256 of the decoded pixels, uint8 [H, W, 3], and their shape: the same picture in any file or format."""
    digest = hashlib.sha256(f"{texture.shape[0]}x{texture.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(texture).tobytes())
    return digest.hexdigest()


def write_png(picture: np.ndarray, path: Path) -> None:
    """Write uint8 [H, W] or [H, W, 3] as PNG, whole or not at all; a file that is there already is left."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    Image.fromarray(picture).save(aside, format="PNG", compress_level=4)
    os.replace(aside, path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file aside, then rename it, so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.write_bytes(content)
    os.replace(aside, path)
