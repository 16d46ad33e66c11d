"""First stage of `prepare`: an asset -> its textures and UV triangles, as files.

Files of one asset: `assets/KEY/N.npz` (triangles [F, 3, 2], mesh_area [F] and corners [F, 3, 3], and bounds [2, 3] of
the mesh) or `N.png` (a mask, with `N-surface.png` and `N-layout.png` beside it where its dataset has them) for each use
of a texture, and `assets/KEY/found.json`, written last: where it exists, the asset has been read. Textures go to
`textures/CONTENT.png`, one per content.
"""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from texdiff.data.mask_weights import THRESHOLD, MaskKind, empty_mask, mask_kind
from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.mask_images import fit_mask, read_pair
from texdiff.data.prepare.workers import Failure, Workers, with_bar
from texdiff.errors import InputError, one_line, readable
from texdiff.files import write_atomic
from texdiff.uv.image import ImageError, content_hash, write_png
from texdiff.uv.inverted import looks_inverted
from texdiff.uv.layout.map_image import encode_map, read_map
from texdiff.uv.meshes import load_readers
from texdiff.uv.meshes.atlases import read_atlases
from texdiff.uv.meshes.gltf.credit import read_credit
from texdiff.uv.texel_area import read_area_file

load_readers()  # now, so that their imports are not part of the first asset's time and memory

# Properties of an atlas that show that something in the file was mended, and what is said of it.
_NOTES = {
    "material_assumed": "the mesh names no material, so the only one of its material file was taken",
    "material_file": "the mesh names a material file that does not exist, so the one beside it was taken",
    "image_folder": "the image was found by its name in ../textures",
}

_GREYS = {
    MaskKind.CUT: f"the mask has grey texels, which count as mapped from {THRESHOLD} on",
    MaskKind.WEIGHTS: "the mask is grey, so its texels weigh their value / 255",
}


@dataclass(frozen=True)
class ReadJob:
    """Read an asset; put what is found into `folder` / "assets" / its key."""

    asset: Asset
    folder: Path


@dataclass(frozen=True)
class TextureUse:
    """A texture in an asset."""

    asset: Asset
    name: str  # of the texture there
    file: str  # with the triangles or the mask, relative to the work folder
    notes: tuple[str, ...]  # what was taken for granted to use it


@dataclass(frozen=True)
class Unread:
    """A texture, or a whole asset (`name` None), that never became an entry, and why."""

    asset: Asset
    name: str | None
    reason: str


def read_assets(assets: list[Asset], work: Path, pool: Workers) -> tuple[dict[str, list[TextureUse]], list[Unread]]:
    """Read what is not read yet. Returns the uses of each texture content, in the order of the assets, and the rest."""
    jobs = [ReadJob(asset, work) for asset in assets if not _is_read(work, asset)]
    for job, answer in with_bar("reading", "assets", len(assets), pool.run(read, jobs), len(jobs)):
        if isinstance(answer, Failure):
            path, folder = readable(str(job.asset.path)), readable(str(job.asset.path.parent))
            reason = readable(answer.reason).removeprefix(f"{path}: ").replace(folder + os.sep, "")
            _record(job, [], [{"name": None, "reason": reason, "again": not answer.lasting}])
    uses: dict[str, list[TextureUse]] = {}
    unread = []
    for asset in assets:
        found = json.loads(_found(work, asset).read_bytes())
        asset = _credited(asset, found["credit"])
        for texture in found["textures"]:
            use = TextureUse(asset, texture["name"], texture["file"], tuple(texture["notes"]))
            uses.setdefault(texture["content"], []).append(use)
        unread += [Unread(asset, rejected["name"], rejected["reason"]) for rejected in found["rejected"]]
    return uses, unread


def _credited(asset: Asset, credit: dict[str, str]) -> Asset:
    """The asset with what its own file says of title, author and licence, where nobody has said otherwise."""
    license, author, title = asset.license or credit.get("license"), asset.author or credit.get("author"), None
    captions = asset.captions
    if "title" in credit:
        title = credit["title"]
        captions = (title,) if asset.named else captions
    return replace(asset, license=license, author=author, title=title, captions=captions)


def read(job: ReadJob) -> None:
    """Do one ReadJob, in a worker. Raises InputError where the asset as a whole cannot be read."""
    if job.asset.problem:
        raise InputError(job.asset.problem)
    place = _found(job.folder, job.asset).parent
    shutil.rmtree(place, ignore_errors=True)  # what a crashed reader left
    place.mkdir(parents=True)
    textures, rejected = _read_mesh(job, place) if job.asset.mask is None else _read_image(job, place)
    _record(job, textures, rejected)


def _read_mesh(job: ReadJob, place: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    found = read_atlases(job.asset.path)
    textures = []
    for number, atlas in enumerate(found.atlases):
        np.savez(
            place / f"{number}.npz",
            triangles=atlas.triangles,
            mesh_area=atlas.mesh_area,
            corners=atlas.corners,
            bounds=found.bounds,
        )
        notes = [note for key, note in _NOTES.items() if key in atlas.properties]
        textures.append(_texture(job, atlas.texture, atlas.name, f"{number}.npz", notes))
    return textures, [{"name": readable(one.name), "reason": one_line(one.reason)} for one in found.rejected]


def _read_image(job: ReadJob, place: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    asset = job.asset
    assert asset.mask is not None
    texture, grey = read_pair(asset.path, asset.mask)
    weights = fit_mask(grey, texture.shape[:2])
    reason = None
    if not weights.any():
        reason = empty_mask(grey)
    elif looks_inverted(texture, weights >= THRESHOLD):
        reason = "the mask looks inverted: what it covers is plain, and what it leaves out is not"
    if reason is not None:
        return [], [{"name": readable(asset.path.name), "reason": reason}]
    if asset.surface is not None:
        write_png(read_area_file(asset.surface, texture.shape[:2]), place / "0-surface.png")
    if asset.layout is not None:
        write_atomic(place / "0-layout.png", encode_map(_layout(asset.layout)), durable=False)
    write_png(weights, place / "0.png")
    notes = [_GREYS[kind]] if (kind := mask_kind(grey)) in _GREYS else []
    return [_texture(job, texture, Path(asset.label).name, "0.png", notes)], []


def _layout(path: Path) -> NDArray[np.uint16]:
    try:
        return read_map(path)
    except ImageError as error:
        raise InputError(f"{path}: the layout map {error}") from None


def _texture(job: ReadJob, texture: NDArray[np.uint8], name: str, file: str, notes: list[str]) -> dict[str, Any]:
    content = content_hash(texture)
    write_png(texture, job.folder / "textures" / f"{content}.png")
    return {"content": content, "name": readable(name), "file": f"assets/{job.asset.key}/{file}", "notes": notes}


def _record(job: ReadJob, textures: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> None:
    credit = read_credit(job.asset.path) if textures and job.asset.mask is None else {}
    text = json.dumps({"textures": textures, "rejected": rejected, "credit": credit})
    write_atomic(_found(job.folder, job.asset), text.encode(), durable=False)


def _found(work: Path, asset: Asset) -> Path:
    return work / "assets" / asset.key / "found.json"


def _is_read(work: Path, asset: Asset) -> bool:
    """Whether it was read, and a new try would end the same way."""
    try:
        found = json.loads(_found(work, asset).read_bytes())
    except (OSError, ValueError):
        return False
    return not any(rejected.get("again") for rejected in found["rejected"])
