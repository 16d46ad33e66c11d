"""How much of the mesh's area each texel of a texture covers, and the 16-bit image in which a dataset keeps it."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from texdiff.errors import InputError
from texdiff.uv.image import ImageError, read_grey16
from texdiff.uv.raster import Group, check_triangles, draw, sort_triangles, spans_of
from texdiff.uv.resize import resize_mean

# Areas are added as whole numbers, of which all triangles together have this many: what is added along a row is then
# taken away again to the last unit, and the void is 0 exactly. One of 16384 x 16384 texels still has 2^33 on average.
UNITS = 2.0**61


def texel_area(triangles: ArrayLike, mesh_area: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """Area of the mesh that each texel lands on.

    A triangle's area is spread evenly over the texels whose centre it covers, as ``coverage_mask`` has it: wrapped
    around, and a texel that is covered repeatedly gets as many shares. One that covers no centre gives all to the
    texel at its centroid. Areas add up where triangles overlap, so the sum over the texels is that over the triangles.

    Args:
        triangles: float [F, 3, 2] in UV units, v up. Those with a coordinate that is not finite are left out.
        mesh_area: float [F], area of each triangle on the mesh, in any unit; finite, 0 or more.
        size: (height, width) of the texture in texels.

    Returns:
        float64 [H, W] in the unit of mesh_area, row 0 = v near 1.

    Raises:
        ValueError: shapes, size or mesh_area are not as described.
    """
    uv, height, width = check_triangles(triangles, size)
    area = np.asarray(mesh_area, dtype=np.float64)
    if area.shape != (len(uv),) or not (np.isfinite(area) & (area >= 0)).all():
        raise ValueError(f"mesh_area has shape {area.shape}; use [{len(uv)}], each finite and 0 or more")
    groups, giants, repeats = sort_triangles(uv)
    unit = float(area.sum()) / UNITS or 1.0
    units = area / unit  # [F]
    rows = np.zeros((height, width + 1), dtype=np.int64)
    columns = np.zeros((width, height + 1), dtype=np.int64)
    points: list[tuple[tuple[NDArray[np.int64], ...], NDArray[np.int64]]] = []  # (row, column) and units of triangles
    for group in groups:
        texels = np.zeros(len(group.numbers), dtype=np.int64)
        for owner, _, start, end in spans_of(group, height, width, "center"):
            np.add.at(texels, owner, end - start)
        share = np.rint(units[group.numbers] / np.maximum(texels, 1)).astype(np.int64)
        draw(columns if group.by_columns else rows, group, weight=share)
        missed = texels == 0
        points.append((_centroids(group, missed, height, width), share[missed]))
    thin = repeats == 0
    points.append((_centroids(giants, thin, height, width), np.rint(units[giants.numbers[thin]]).astype(np.int64)))
    np.cumsum(rows, axis=1, out=rows)  # in place: of the largest textures one such array takes 2 GiB
    np.cumsum(columns, axis=1, out=columns)
    sums = rows[:, :width]
    sums += columns[:, :height].T
    del columns
    for at, what in points:
        np.add.at(sums, at, what)
    everywhere = float(area[giants.numbers[~thin]].sum()) / (height * width)
    result = sums.astype(np.float64)
    result *= unit
    result += everywhere
    return result


def to_grey16(density: NDArray[np.floating], mask: NDArray[np.bool_]) -> NDArray[np.uint16]:
    """A texel-area map as the values of a 16-bit image: round(65535 sqrt(d / d_max)).

    The root halves the orders of magnitude: densities down to 2.3e-10 of the largest differ from 0. At least 1 where
    the mask is true, 0 elsewhere; where no texel of the mask lands on the mesh, all of them are alike.

    Args:
        density: float [H, W], mesh area per texel in any unit, 0 or more.
        mask: bool [H, W].

    Returns:
        uint16 [H, W].
    """
    largest = float(np.max(density, initial=0.0, where=mask))
    grey = np.zeros(mask.shape, np.uint16)
    for top in range(0, len(mask), 256):  # in bands, which keeps what is in memory at once small
        band, here = density[top : top + 256], mask[top : top + 256]
        root = np.sqrt(np.where(here, band, 0.0) / largest) if largest > 0 else np.ones(band.shape)
        grey[top : top + 256] = np.where(here, np.maximum(np.rint(65535 * root), 1), 0)
    return grey


def from_grey16(grey: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The densities that ``to_grey16`` wrote, uint16 [H, W] -> float32 [H, W], as shares of the largest."""
    return np.square(grey.astype(np.float32) / 65535)


def read_area_file(source: Path | bytes, size: tuple[int, int]) -> NDArray[np.uint16]:
    """A surface file of an image of size (height, width), uint16 [H, W]. Raises InputError where it is not one."""
    try:
        grey = read_grey16(source)
    except ImageError as error:
        raise InputError(f"the surface file {error}; prepare the dataset again from the meshes") from None
    if grey.shape != size:
        raise InputError(
            f"the surface file is {grey.shape[1]}x{grey.shape[0]} but the image {size[1]}x{size[0]} pixels; prepare "
            "the dataset again from the meshes"
        )
    return grey


def resize_texel_area(
    density: NDArray[np.floating], mask: NDArray[np.bool_], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A texel-area map at another size: the mean over each new texel's covered part, and the mask as ``resize`` has it.

    So a new texel's value times its covered part is the mesh area that lands on it: nothing is lost by shrinking but
    what the mask drops. Growing interpolates.

    Args:
        density: float [H, W], mesh area per texel.
        mask: bool [H, W].
        size: (height, width) wanted.

    Returns:
        float32 [h, w], 0 outside the new mask, and the new mask, bool [h, w].
    """
    area, share = (resize_mean(plane, size) for plane in (np.where(mask, density, 0), mask))
    covered = share >= 0.5 - 1e-6
    mean = area / np.where(covered, share, 1)
    return np.where(covered, mean, np.float32(0)), covered


def _centroids(
    group: Group, some: NDArray[np.bool_], height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the texel at the centroid of some of a group's triangles."""
    u, v = group.uv[some].mean(axis=1).T
    x, y = np.floor(u * width), np.floor((1.0 - v) * height)
    if group.wrapped:
        x, y = x % width, y % height
    # On the border, or a rounding beyond: the border's texel.
    return np.clip(y, 0, height - 1).astype(np.int64), np.clip(x, 0, width - 1).astype(np.int64)
