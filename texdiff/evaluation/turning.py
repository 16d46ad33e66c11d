"""A turning picture: a mesh with several textures side by side, once around."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from texdiff.files import write_atomic
from texdiff.render.renderer import MeshRenderer, turntable

_FRAMES, _SECONDS = 32, 4.0


def write_turning(mesh: Path, textures: Sequence[NDArray[np.uint8]], parts: Iterable[str], path: Path) -> None:
    """Write an animated WebP of `mesh` with each of the textures, uint8 [H, W, 3], on `parts`, from left to right.

    Browsers play it without end. Raises InputError where the mesh cannot be drawn.
    """
    renderer, keys = MeshRenderer(mesh, turntable(_FRAMES)), list(parts)
    columns = np.concatenate([renderer.draw(texture, keys) for texture in textures], axis=2)  # [frames, h, n w, 3]
    first, *others = (Image.fromarray(frame) for frame in columns)
    content = io.BytesIO()
    duration = round(1000 * _SECONDS / _FRAMES)  # milliseconds of each frame
    first.save(content, "webp", save_all=True, append_images=others, duration=duration, loop=0, quality=80)
    write_atomic(path, content.getvalue(), durable=False)
