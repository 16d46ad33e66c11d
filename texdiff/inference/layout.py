"""`texdiff layout`: a mesh's map of the texture that `texdiff generate` would replace, for other programs."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from texdiff.errors import InputError
from texdiff.inference.retexture import write_output
from texdiff.inference.target import read_target
from texdiff.uv.image import MAX_SIDE
from texdiff.uv.layout.draw import Kind, draw_map
from texdiff.uv.layout.map_image import encode_map


def write_layout(mesh: Path, output: Path, size: int, kind: Kind, material: str | None = None) -> str:
    """Write the map, of size x size, to `output`: of kind `position` or `normal` 16-bit RGB, else 8-bit grey. Returns
    one line that says which texture it is for: that of `material`, or else the one on the most surface.

    Raises:
        InputError: the mesh cannot be read, has no UV map or no such material, the size is none, or `output` cannot be
            written.
    """
    if output.suffix.lower() != ".png":
        raise InputError(f"--output {output}: must end in .png")
    if not 1 <= size <= MAX_SIDE:
        raise InputError(f"--size must be at least 1 and at most {MAX_SIDE} (got {size})")
    target = read_target(mesh, material=material)
    drawn = draw_map(target.surface, kind, (size, size))
    if kind in ("position", "normal"):
        write_output(output, encode_map(drawn))
    else:
        png = io.BytesIO()
        Image.fromarray((drawn[..., 0] >> 8).astype(np.uint8)).save(png, "PNG")
        write_output(output, png.getvalue())
    return target.choice
