"""First station of `prepare`, in a worker: an asset -> its textures and UV triangles, as files.

Files of one asset: `assets/KEY/N.npz` (triangles [F, 3, 2] and surface [F]) or `N.png` (a mask, with `N-surface.png`
beside it where its dataset has one) for each use of a texture, and `assets/KEY/found.json`, written last: where it is
there, the asset has been read. Textures go to `pictures/CONTENT.png`, one per content.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.mask_images import fit_mask, looks_inverted, read_pair, read_surface
from texdiff.errors import InputError, one_line
from texdiff.files import write_atomic
from texdiff.uv.image import content_hash, write_png


@dataclass(frozen=True)
class ReadJob:
    """Read an asset; put what is found into `folder` / "assets" / its key."""

    asset: Asset
    folder: Path


def read(job: ReadJob) -> None:
    """Do one ReadJob. Raises InputError where the asset as a whole can't be read."""
    asset = job.asset
    if asset.problem:
        raise InputError(asset.problem)
    place = job.folder / "assets" / asset.key
    shutil.rmtree(place, ignore_errors=True)  # what a crashed reader left
    place.mkdir(parents=True)
    textures, set_aside = _read_mesh(job, place) if asset.mask is None else _read_picture(job, place)
    record(job.folder, asset.key, textures, set_aside)


def _read_mesh(job: ReadJob, place: Path) -> tuple[list[dict], list[dict]]:
    from texdiff.uv.meshes.atlases import read_textures  # brings trimesh and scipy, which training has no use for

    found = read_textures(job.asset.path)
    textures = []
    for number, atlas in enumerate(found.atlases):
        np.savez(place / f"{number}.npz", triangles=atlas.triangles, surface=atlas.surface)
        textures.append(_texture(job, atlas.texture, atlas.name, f"{number}.npz", dict(atlas.facts)))
    return textures, [{"name": aside.name, "reason": one_line(aside.reason)} for aside in found.set_aside]


def _read_picture(job: ReadJob, place: Path) -> tuple[list[dict], list[dict]]:
    asset = job.asset
    assert asset.mask is not None
    texture, grey = read_pair(asset.path, asset.mask)
    mask = fit_mask(grey, texture.shape[:2])
    if looks_inverted(texture, mask):
        reason = "the mask looks inverted: what it covers is plain, and what it leaves out is not"
        return [], [{"name": asset.path.name, "reason": reason}]
    if asset.surface is not None:
        write_png(read_surface(asset.surface, texture.shape[:2]), place / "0-surface.png")
    write_png(mask.astype(np.uint8) * 255, place / "0.png")
    return [_texture(job, texture, Path(asset.label).name, "0.png", {})], []


def _texture(job: ReadJob, texture: np.ndarray, name: str, use: str, facts: dict) -> dict:
    content = content_hash(texture)
    write_png(texture, job.folder / "pictures" / f"{content}.png")
    return {"content": content, "name": name, "uses": f"assets/{job.asset.key}/{use}", "facts": facts}


def record(folder: Path, key: str, textures: list[dict], set_aside: list[dict]) -> None:
    """Write an asset's found.json: whole or not at all."""
    text = json.dumps({"textures": textures, "set_aside": set_aside})
    write_atomic(folder / "assets" / key / "found.json", text.encode(), durable=False)
