"""A mesh as the triangles that a viewer draws, in one small file that needs the mesh no more."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from texdiff.files import write_atomic
from texdiff.render.geometry import MeshGeometry
from texdiff.render.material import RenderMaterial
from texdiff.render.sampling import Footprint, to_srgb
from texdiff.uv.meshes import read_parts
from texdiff.uv.meshes.part import MeshUse


@dataclass(frozen=True, kw_only=True)
class Triangles:
    """F triangles in the cube from -1 to 1, y up; those that use the texture come first."""

    corners: NDArray[np.float32]  # [F, 3, 3]
    normals: NDArray[np.float32]  # [F, 3, 3], of length 1
    uv: NDArray[np.float32]  # [F, 3, 2], v up, as stored: may leave [0, 1]
    colours: NDArray[np.uint8]  # [F, 3, 3] sRGB of the other parts, white where the texture is used
    worn: int  # triangles that use the texture


def read_triangles(use: MeshUse) -> Triangles:
    """The mesh's triangles. Parts other than `use.parts` keep their own colours, taken at the corners.

    Raises InputError where the mesh can no longer be read.
    """
    parts = read_parts(use.path)
    materials = [RenderMaterial(part.material) for part in parts]
    geometry = MeshGeometry(parts, visible=[not material.transparent for material in materials])
    textured = np.isin(geometry.part, [number for number, part in enumerate(parts) if part.key in use.parts])
    colours = np.full((len(textured), 3, 3), 255, np.uint8)
    for number, material in enumerate(materials):
        here = np.flatnonzero((geometry.part == number) & ~textured)
        if len(here):
            uv = geometry.uv[here].reshape(-1, 2)
            still = np.zeros((len(uv), 2), np.float32)
            colours[here] = to_srgb(material.colours(Footprint(uv, still, still))).reshape(-1, 3, 3)
    order = np.argsort(~textured, kind="stable")
    return Triangles(
        corners=geometry.corners[order].astype(np.float32),
        normals=geometry.normals[order].astype(np.float32),
        uv=geometry.uv[order].astype(np.float32),
        colours=colours[order],
        worn=int(textured.sum()),
    )


def write_triangles(triangles: Triangles, path: Path) -> None:
    """Write them as a compressed .npz, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **vars(triangles))
    write_atomic(path, buffer.getvalue(), durable=False)


def load_triangles(path: Path) -> Triangles:
    """What `write_triangles` wrote. Raises OSError or ValueError where it wrote no such file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored}
        return Triangles(**arrays | {"worn": int(arrays["worn"])})
    except (KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a mesh for the viewer ({error})") from None
