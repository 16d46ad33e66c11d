"""Second stage of `prepare`: a texture content and its uses -> mask, mesh area per texel, measures, thumbnails."""

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texdiff.data.mask_weights import mask_weights
from texdiff.data.prepare.asset import Asset
from texdiff.data.prepare.near_duplicates.look import look_of
from texdiff.data.prepare.read_stage import TextureUse
from texdiff.data.prepare.workers import Failure, Workers, with_bar
from texdiff.files import slug, write_atomic
from texdiff.uv.audit import rejection_reason
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.image import open_unlimited, write_png
from texdiff.uv.layout.map_image import encode_map, read_map, sample_map, to_16_bits, without_position
from texdiff.uv.layout.position import position_map
from texdiff.uv.measures import LATENT_CELL, measure
from texdiff.uv.resize import resize_weighted
from texdiff.uv.texel_area import from_grey16, read_area_file, resize_texel_area, texel_area, to_grey16

_LAYOUT_SIDE = 4096  # texels of a layout map at most: training takes fewer, and more need more memory than the texture
_THUMBNAIL = 96  # pixels; three of them a row are about 4 KB, so a page with thousands of rows still opens


@dataclass(frozen=True)
class BuildJob:
    """Build the entry of one texture content from its uses (paths relative to `folder`), in `folder` / `place`."""

    content: str
    uses: tuple[str, ...]
    resolution: int | None
    folder: Path
    place: str


@dataclass(frozen=True, kw_only=True)
class TextureEntry:
    """One texture content: the assets that use it (in their order), and what was made of it."""

    content: str  # SHA-256 of its pixels
    name: str  # of the texture, in the first asset that uses it
    assets: tuple[Asset, ...]
    folder: Path  # texture.png, mask.png (where it is kept), surface.png and layout.png (where it is known), entry.json
    reason: str | None  # why it is rejected; None where it is kept
    notes: tuple[str, ...] = ()  # what was taken for granted to read it
    generated: str | None = None  # a captioner's caption
    same_as: str | None = None  # asset_id of the one that stays, where several show the same texture

    @property
    def asset_id(self) -> str:
        """Mesh, texture and content in a name that any file system takes."""
        names = [Path(self.assets[0].label).stem]
        if self.assets[0].mask is None:
            names.append(Path(self.name).stem)
        return "-".join([*map(slug, names), self.content[:8]])

    @property
    def has_surface(self) -> bool:
        """Whether it is known how much of the meshes' area each texel covers."""
        return (self.folder / "surface.png").is_file()

    @property
    def has_layout(self) -> bool:
        """Whether it is known where on a mesh each texel lies."""
        return (self.folder / "layout.png").is_file()

    @property
    def captions(self) -> list[str]:
        """Distinct captions over all assets; those made from names only where there are no others."""
        given = [text for asset in self.assets if not asset.named for text in asset.captions]
        if not given and self.generated:
            return [self.generated]
        return list(dict.fromkeys(given or [text for asset in self.assets for text in asset.captions]))

    @property
    def needs_caption(self) -> bool:
        """Whether its captions are only the names of files."""
        return all(asset.named for asset in self.assets)

    def stored(self) -> dict[str, Any]:
        """entry.json: "properties" (reason, sizes, measures), "look" (near_duplicates; absent where building the
        entry failed), and "thumbnails" (data URIs of texture, mask and latent mask; none where it failed)."""
        return json.loads((self.folder / "entry.json").read_bytes())


def build_entries(
    uses: dict[str, list[TextureUse]], work: Path, resolution: int | None, pool: Workers
) -> list[TextureEntry]:
    """Build the entries that are not built yet; returns one per texture content, in the order of `uses`."""
    jobs = {}
    for content, used in uses.items():
        files = tuple(use.file for use in used)
        key = hashlib.sha256("\n".join([content, str(resolution), *files]).encode()).hexdigest()[:24]
        jobs[content] = BuildJob(content, files, resolution, work, f"entries/{key}")
    missing = [job for job in jobs.values() if not _is_built(job)]
    for job, answer in with_bar("measuring", "textures", len(jobs), pool.run(build, missing), len(missing)):
        if isinstance(answer, Failure):
            failed = {"properties": {"reason": answer.reason}, "thumbnails": [], "again": not answer.lasting}
            write_atomic(work / job.place / "entry.json", json.dumps(failed).encode(), durable=False)
    entries = []
    for content, used in uses.items():
        folder = work / jobs[content].place
        assets = tuple(dict.fromkeys(use.asset for use in used))
        reason = json.loads((folder / "entry.json").read_bytes())["properties"]["reason"]
        notes = tuple(dict.fromkeys(note for use in used for note in use.notes))
        entries.append(
            TextureEntry(content=content, name=used[0].name, assets=assets, folder=folder, reason=reason, notes=notes)
        )
    return entries


def build(job: BuildJob) -> None:
    """Do one BuildJob, in a worker: `place`/texture.png, mask.png and, where they are known, surface.png, layout.png,
    if the texture is kept; and `place`/entry.json, written last."""
    texture = _read(job.folder / "textures" / f"{job.content}.png")
    height, width = texture.shape[:2]
    triangles, mesh_area, weights = _uses(job, (height, width))
    mask, area = weights > 0, None
    look = look_of(texture, mask)
    measures = measure(texture, mask, triangles, mesh_area)
    reason = rejection_reason(measures)
    if reason is None:
        area = _texel_area(job, triangles, mesh_area, mask.shape)
    if job.resolution is not None and reason is None:
        size = (job.resolution, job.resolution)
        if area is not None:
            area, _ = resize_texel_area(area, mask, size)
        texture, weights = resize_weighted(texture, weights, size)
        mask = weights > 0
        measures = measure(texture, mask, triangles, mesh_area)
        reason = rejection_reason(measures)
    place = job.folder / job.place
    if reason is None:
        write_png(texture, place / "texture.png")
        write_png(mask_weights(weights), place / "mask.png")
        if area is not None:
            write_png(to_grey16(area, mask), place / "surface.png")
    layout = _layout(job, mask) if reason is None else None
    if layout is not None:
        write_atomic(place / "layout.png", encode_map(layout), durable=False)
    properties = {"reason": reason, "source_width": width, "source_height": height, "surface": area is not None}
    properties["without_position"] = None if layout is None else without_position(layout, mask)
    properties |= {"width": texture.shape[1], "height": texture.shape[0], "measures": measures}
    entry = {"properties": properties, "look": look, "thumbnails": _thumbnails(texture, weights)}
    write_atomic(place / "entry.json", json.dumps(entry).encode(), durable=False)


def _is_built(job: BuildJob) -> bool:
    """Whether it was built, and a new try would end the same way."""
    try:
        return not json.loads((job.folder / job.place / "entry.json").read_bytes()).get("again")
    except (OSError, ValueError):
        return False


def _uses(
    job: BuildJob, size: tuple[int, int]
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None, NDArray[np.uint8]]:
    """UV triangles and their mesh area over all meshes with the texture (None: no mesh has it), and the union of all
    masks, of each texel its largest weight, in 255ths."""
    weights = np.zeros(size, np.uint8)
    triangles, mesh_area = [], []
    for use in job.uses:
        if use.endswith(".npz"):
            with np.load(job.folder / use) as arrays:
                triangles.append(arrays["triangles"])
                mesh_area.append(arrays["mesh_area"])
        else:
            np.maximum(weights, _read(job.folder / use), out=weights)
    if not triangles:
        return None, None, weights
    together = np.concatenate(triangles)
    return together, np.concatenate(mesh_area), np.where(coverage_mask(together, size), np.uint8(255), weights)


def _texel_area(
    job: BuildJob,
    triangles: NDArray[np.float64] | None,
    mesh_area: NDArray[np.float64] | None,
    size: tuple[int, int],
) -> NDArray[np.floating] | None:
    """Mesh area per texel, float [H, W], over all uses; None where one of them does not know it.

    Files hold it in a unit of their own. So where one is among the uses, each file, and all meshes together, are
    taken to have the same mean over the texels they use.
    """
    maps: list[NDArray[np.floating]] = []
    if triangles is not None and mesh_area is not None:
        maps.append(texel_area(triangles, mesh_area, size))
    for use in job.uses:
        if use.endswith(".npz"):
            continue
        path = job.folder / use.replace(".png", "-surface.png")
        if not path.is_file():
            return None
        maps.append(from_grey16(read_area_file(path, size)))
    if len(maps) == 1:
        return maps[0]
    return np.sum([area / max(area[area > 0].mean(), 1e-30) if area.any() else area for area in maps], axis=0)


def _layout(job: BuildJob, mask: NDArray[np.bool_]) -> NDArray[np.uint16] | None:
    """The position map of a texture with this mask, uint16 [H, W, 3], 0 where that is 0; None where no use knows it.

    Of several meshes the one with the most surface, the first of equals, is drawn; without any, the first map that a
    dataset has is taken.
    """
    shrunk = min(1.0, _LAYOUT_SIDE / max(mask.shape))
    size = round(mask.shape[0] * shrunk), round(mask.shape[1] * shrunk)
    surface: dict[str, float] = {}
    for use in job.uses:
        if use.endswith(".npz"):
            with np.load(job.folder / use) as arrays:
                surface[use] = float(arrays["mesh_area"].sum())
    if surface:
        with np.load(job.folder / max(surface, key=lambda use: surface[use])) as arrays:
            drawn = position_map(arrays["triangles"], arrays["corners"], size, arrays["bounds"])
        layout = to_16_bits(drawn)
    else:
        maps = [path for use in job.uses if (path := job.folder / use.replace(".png", "-layout.png")).is_file()]
        if not maps:
            return None
        layout = sample_map(read_map(maps[0]), size)
    return np.where(sample_map(mask[..., None], size), layout, np.uint16(0))


def _thumbnails(texture: NDArray[np.uint8], weights: NDArray[np.uint8]) -> list[str]:
    """Texture, mask and latent mask (nearest: the top-left texel of each 8 x 8 cell) as small data URIs."""
    height, width = weights.shape
    scale = _THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(texture).resize(size, Image.Resampling.BOX)
    grey = Image.fromarray(weights).resize(size, Image.Resampling.BOX)
    latent = Image.fromarray(weights[::LATENT_CELL, ::LATENT_CELL])
    return [
        _data_uri(small, "webp", quality=60, method=4),
        _data_uri(grey.quantize(8), "png", optimize=True),
        _data_uri(latent.convert("1"), "png", optimize=True),
    ]


def _data_uri(image: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _read(path: Path) -> NDArray[np.uint8]:
    with open_unlimited(path) as image:
        return np.array(image)
