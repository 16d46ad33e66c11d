"""Look a texture up as a GPU does: mip-mapped, trilinear, filtered in linear light."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Level = NDArray[np.uint8] | Float  # [h, w, 3]: sRGB as stored, which takes a quarter of the memory, or linear light


class Footprint(NamedTuple):
    """Where N pixels look a texture up, in UV units, v up."""

    uv: NDArray[np.float64]  # [N, 2]
    along_x: Float  # [N, 2] change of uv from a pixel to the next in its row
    along_y: Float  # [N, 2] and in its column

    def of(self, pixels: NDArray[np.intp]) -> "Footprint":
        """Some of them."""
        return Footprint(self.uv[pixels], self.along_x[pixels], self.along_y[pixels])


def to_linear(values: NDArray[np.uint8]) -> Float:
    """sRGB 0-255 to linear light 0-1 (IEC 61966-2-1)."""
    return _LINEAR[values]


def to_srgb(values: Float) -> NDArray[np.uint8]:
    """Linear light 0-1 to sRGB 0-255, to the nearest."""
    low, high = 12.92 * values, 1.055 * np.maximum(values, 1e-4) ** (1 / 2.4) - 0.055
    return np.asarray(np.rint(np.clip(np.where(values <= 0.0031308, low, high), 0, 1) * 255), np.uint8)


def _to_linear(values: NDArray[np.float64]) -> Float:
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4), np.float32)


_LINEAR = _to_linear(np.arange(256) / 255)


def mip_levels(texture: NDArray[np.uint8]) -> list[Level]:
    """Texture uint8 [H, W, 3], itself first, and its halvings down to 1 x 1, by area, float32 in linear light."""
    levels: list[Level] = [texture]
    level = to_linear(texture)
    while max(level.shape[:2]) > 1:
        height, width = (max(side // 2, 1) for side in level.shape[:2])
        smaller = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA)
        level = np.asarray(smaller, np.float32).reshape(height, width, 3)
        levels.append(level)
    return levels


def sample(levels: list[Level], at: Footprint, wrap: tuple[str, str]) -> Float:
    """Colours [N, 3] in linear light; `wrap` as in `texdiff.uv.meshes.part.Material`.

    The level of detail is log2 of the footprint's longer side in texels (OpenGL 4.6 core, section 8.14), and the
    colour lies between those of the two levels beside it, each interpolated bilinearly.
    """
    height, width = levels[0].shape[:2]
    texels = np.array([width, height], np.float32)
    longer = np.maximum(np.linalg.norm(at.along_x * texels, axis=1), np.linalg.norm(at.along_y * texels, axis=1))
    lod = np.clip(np.log2(np.maximum(np.nan_to_num(longer, nan=0.0), 1e-9)), 0, len(levels) - 1)
    lower = np.floor(lod).astype(np.intp)
    colours = np.empty((len(at.uv), 3), np.float32)
    for level in np.unique(lower):
        here = np.flatnonzero(lower == level)
        colour = _bilinear(levels[level], at.uv[here], wrap)
        share = (lod[here] - level).astype(np.float32)[:, None]
        if share.any():
            colour += share * (_bilinear(levels[level + 1], at.uv[here], wrap) - colour)
        colours[here] = colour
    return colours


def nearest(texture: NDArray[np.uint8], uv: NDArray[np.float64], wrap: tuple[str, str]) -> NDArray[np.uint8]:
    """The texel of uint8 [H, W] at each of N places: [N]."""
    column, row = (
        _fold(np.floor(along).astype(np.intp), size, mode)
        for along, size, mode in zip(_texels(texture.shape, uv), texture.shape[::-1], wrap, strict=True)
    )
    return texture[row, column]


def _texels(shape: tuple[int, ...], uv: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """uv in texels from the image's upper left corner: x, y."""
    return uv[:, 0] * shape[1], (1 - uv[:, 1]) * shape[0]


def _bilinear(level: Level, uv: NDArray[np.float64], wrap: tuple[str, str]) -> Float:
    columns, rows = (
        _neighbours(along - 0.5, size, mode)
        for along, size, mode in zip(_texels(level.shape, uv), (level.shape[1], level.shape[0]), wrap, strict=True)
    )
    (left, right, x), (top, bottom, y) = columns, rows
    upper, lower = (_mix(_linear(level[row, left]), _linear(level[row, right]), x) for row in (top, bottom))
    return _mix(upper, lower, y)


def _linear(texels: Level) -> Float:
    return to_linear(np.asarray(texels, np.uint8)) if texels.dtype == np.uint8 else np.asarray(texels, np.float32)


def _mix(one: Float, other: Float, share: Float) -> Float:
    return np.asarray(one + share * (other - one))  # exactly `one` where both are equal


def _neighbours(
    along: NDArray[np.float64], size: int, wrap: str
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """The two texels on either side, and how far it is from the first to the second: [N], [N], [N, 1]."""
    first = np.floor(along)
    index = first.astype(np.intp)
    return _fold(index, size, wrap), _fold(index + 1, size, wrap), (along - first).astype(np.float32)[:, None]


def _fold(index: NDArray[np.intp], size: int, wrap: str) -> NDArray[np.intp]:
    """Any texel's number to one of the image's own."""
    if wrap == "clamp":
        return np.clip(index, 0, size - 1)
    if wrap == "mirror":
        index = index % (2 * size)
        return np.minimum(index, 2 * size - 1 - index)
    return index % size
