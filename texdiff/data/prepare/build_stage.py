"""Second station of `prepare`, in a worker: a texture content and its uses -> mask, surface, measures, verdict."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from texdiff.data.prepare.mask_images import read_surface
from texdiff.files import write_atomic
from texdiff.uv.audit import measure, verdict
from texdiff.uv.coverage import coverage_mask
from texdiff.uv.image import write_png
from texdiff.uv.resize import resize
from texdiff.uv.texel_area import from_grey, resize_density, surface_map, to_grey

_THUMBNAIL = 96  # pixels; three of them a row are about 4 KB, so a page with thousands of rows still opens
_VAE_FACTOR = 8  # latent texels are 8 x 8 texels in every Stable Diffusion


@dataclass(frozen=True)
class EntryJob:
    """Build the entry of one texture content from its uses (paths relative to `folder`), in `folder` / `place`."""

    content: str
    uses: tuple[str, ...]
    resolution: int | None
    folder: Path
    place: str


def build(job: EntryJob) -> None:
    """Do one EntryJob: `place`/texture.png, mask.png and, where the surface is known, surface.png, if it is kept; and
    `place`/entry.json, written last."""
    with Image.open(job.folder / "pictures" / f"{job.content}.png") as picture:
        texture = np.array(picture)
    height, width = texture.shape[:2]
    triangles, surface, mask = _uses(job, (height, width))
    density = None
    measures = measure(texture, mask, triangles, surface)
    reason = verdict(measures)
    if reason is None:
        density = _density(job, triangles, surface, mask.shape)
    if job.resolution is not None and reason is None:
        if density is not None:
            density, _ = resize_density(density, mask, (job.resolution, job.resolution))
        texture, mask = resize(texture, mask, (job.resolution, job.resolution))
        measures = measure(texture, mask, triangles, surface)
        reason = verdict(measures)
    place = job.folder / job.place
    if reason is None:
        write_png(texture, place / "texture.png")
        write_png(mask.astype(np.uint8) * 255, place / "mask.png")
        if density is not None:
            write_png(to_grey(density, mask), place / "surface.png")
    facts = {"reason": reason, "source_width": width, "source_height": height, "surface": density is not None}
    facts |= {"width": texture.shape[1], "height": texture.shape[0], "measures": measures}
    entry = {"facts": facts, "thumbnails": thumbnails(texture, mask)}
    write_atomic(place / "entry.json", json.dumps(entry).encode(), durable=False)


def _uses(job: EntryJob, size: tuple[int, int]) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
    """UV triangles and their surface of all meshes with the texture (None: no mesh has), and the union of all masks."""
    mask = np.zeros(size, bool)
    triangles, surface = [], []
    for use in job.uses:
        if use.endswith(".npz"):
            with np.load(job.folder / use) as arrays:
                triangles.append(arrays["triangles"])
                surface.append(arrays["surface"])
        else:
            with Image.open(job.folder / use) as picture:
                mask |= np.asarray(picture) >= 128
    if not triangles:
        return None, None, mask
    together = np.concatenate(triangles)
    return together, np.concatenate(surface), mask | coverage_mask(together, size)


def _density(
    job: EntryJob, triangles: np.ndarray | None, surface: np.ndarray | None, size: tuple[int, int]
) -> np.ndarray | None:
    """Surface per texel, float [H, W], over all uses; None where one of them does not know it.

    Files hold it in a unit of their own. So where one is among the uses, each file, and all meshes together, are
    taken to have the same mean over the texels they use.
    """
    maps: list[np.ndarray] = []
    if triangles is not None and surface is not None:
        maps.append(surface_map(triangles, surface, size))
    for use in job.uses:
        if use.endswith(".npz"):
            continue
        path = job.folder / use.replace(".png", "-surface.png")
        if not path.is_file():
            return None
        maps.append(from_grey(read_surface(path, size)))
    if len(maps) == 1:
        return maps[0]
    return np.sum([one / max(one[one > 0].mean(), 1e-30) if one.any() else one for one in maps], axis=0)


def thumbnails(texture: np.ndarray, mask: np.ndarray) -> list[str]:
    """Texture, mask and latent mask (nearest: the top-left texel of each 8 x 8 cell) as small data URIs."""
    height, width = mask.shape
    scale = _THUMBNAIL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(texture).resize(size, Image.Resampling.BOX)
    grey = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    latent = Image.fromarray(mask[::_VAE_FACTOR, ::_VAE_FACTOR].astype(np.uint8) * 255)
    return [
        _data_uri(small, "webp", quality=60, method=4),
        _data_uri(grey.quantize(8), "png", optimize=True),
        _data_uri(latent.convert("1"), "png", optimize=True),
    ]


def _data_uri(picture: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
