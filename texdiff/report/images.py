"""The images and meshes of a run, small enough to be part of the page."""

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from texdiff.training.run import Run
from texdiff.training.samples import Sample, beside, read_samples
from texdiff.uv.gutter import fill

if TYPE_CHECKING:
    from texdiff.render.viewer_mesh import Triangles

_STEPS = 24  # shown of all sample steps at most
_SIDE = 320  # pixels of a sample image
_ATLAS = 1024  # pixels of the atlas on a mesh
_FACES = 150_000  # of a mesh at most: more would make the page tens of megabytes


def timeline(run: Run) -> dict[str, Any]:
    """Samples over time: prompts, and at each step the images of each sample, as data URIs (None: not there)."""
    samples = read_samples(run)
    steps = run.sample_folders()
    if len(steps) > _STEPS:
        steps = [steps[round(i * (len(steps) - 1) / (_STEPS - 1))] for i in range(_STEPS)]
    shown = []
    for folder in steps if samples else []:
        paths = [[folder / beside(sample.file, "dimmed"), folder / beside(sample.file, "mesh")] for sample in samples]
        uris = [[data_uri(path, _SIDE) for path in pair] for pair in paths]
        shown.append({"step": int(folder.name.removeprefix("step-")), "images": uris})
    return {"prompts": [sample.prompt for sample in samples] if shown else [], "steps": shown}


def meshes(run: Run) -> list[dict[str, Any]]:
    """The newest samples on their meshes, for the viewer: vertices and indices as base64, and the atlas."""
    from texdiff.render.viewer_mesh import load_triangles  # brings trimesh, for which the start of a run need not wait

    steps = run.sample_folders()
    found = []
    for sample in read_samples(run) if steps else []:
        atlas = _filled_atlas(run, sample, steps[-1])
        if sample.mesh is None or atlas is None:
            continue
        try:
            triangles = load_triangles(run.samples_folder / sample.mesh)
        except (OSError, ValueError):
            continue
        if 0 < len(triangles.corners) <= _FACES:
            found.append({"prompt": sample.prompt, "atlas": atlas, **_geometry(triangles)})
    return found


def data_uri(path: Path, side: int) -> str | None:
    """The image as a data URI, at most `side` pixels high and wide; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            small = image.convert("RGB")
    except (OSError, UnidentifiedImageError):
        return None
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _webp(small, 85)


def _filled_atlas(run: Run, sample: Sample, step: Path) -> str | None:
    """The atlas with its void filled from the islands, as on a mesh."""
    try:
        with Image.open(step / sample.file) as image, Image.open(run.samples_folder / sample.mask) as mask:
            atlas, covered = np.asarray(image.convert("RGB")), np.asarray(mask.convert("L")) >= 128
        filled = Image.fromarray(fill(atlas, covered))
    except (OSError, ValueError):
        return None
    filled.thumbnail((_ATLAS, _ATLAS), Image.Resampling.LANCZOS)
    return _webp(filled, 92)


def _webp(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


# What the viewer reads of each vertex, 24 bytes, little-endian.
_VERTEX = np.dtype(
    [("position", "<i2", 3), ("pad", "<i2"), ("normal", "i1", 3), ("pad2", "i1"), ("uv", "<f4", 2), ("colour", "u1", 4)]
)


def _geometry(triangles: "Triangles") -> dict[str, Any]:
    """Vertices (each once) and indices; the first 3 * worn of these have the atlas."""
    vertices = np.zeros(3 * len(triangles.corners), _VERTEX)
    vertices["position"] = np.rint(triangles.corners.reshape(-1, 3) * 32767)
    vertices["normal"] = np.rint(triangles.normals.reshape(-1, 3) * 127)
    vertices["uv"] = triangles.uv.reshape(-1, 2)
    vertices["colour"][:, :3] = triangles.colours.reshape(-1, 3)
    once, index = np.unique(vertices.view(f"V{_VERTEX.itemsize}"), return_inverse=True)
    return {"vertices": _base64(once), "indices": _base64(index.astype("<u4")), "worn": 3 * triangles.worn}


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()
