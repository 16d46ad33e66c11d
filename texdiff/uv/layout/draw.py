"""A mesh's map of a texture in one of the forms that layout nets are trained with."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.coverage import coverage_mask
from texdiff.uv.layout.lines import line_map
from texdiff.uv.layout.map_image import to_16_bits
from texdiff.uv.layout.position import normal_map, position_map

Kind = Literal["position", "normal", "mask", "lines"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """What of a mesh shows a texture."""

    triangles: NDArray[np.float64]  # [F, 3, 2] in UV units, v up
    corners: NDArray[np.float64]  # [F, 3, 3] in world space
    normals: NDArray[np.float64]  # [F, 3, 3] there, of any length
    bounds: NDArray[np.float64]  # [2, 3], lowest and highest corner of the whole object


def draw_map(surface: Surface, kind: Kind, size: tuple[int, int]) -> NDArray[np.uint16]:
    """The map of a texture of size (height, width), uint16 [H, W, 3], of which 65535 is 1, row 0 = v near 1.

    `position` is ``position_map``, `normal` ``normal_map``, `mask` white where the UV map covers the texel's centre,
    `lines` white on the edges of its triangles. 0 elsewhere.
    """
    if kind == "position":
        return to_16_bits(position_map(surface.triangles, surface.corners, size, surface.bounds))
    if kind == "normal":
        return to_16_bits(normal_map(surface.triangles, surface.normals, size, surface.corners))
    white = coverage_mask(surface.triangles, size) if kind == "mask" else line_map(surface.triangles, size)
    return np.repeat(white[..., None] * np.uint16(65535), 3, axis=2)
