"""What is wrong with an atlas: measures, and the verdict whether it is worth training on."""

import hashlib
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from texdiff.uv.mapping import measure_mapping

Measure = bool | int | float | str

LATENT_CELL = 8  # texels along a side of a latent cell, in every Stable Diffusion

# An atlas below 64 texels has 8 x 8 latents at most: fewer than a U-Net halves down to, and nothing to learn from.
MIN_SIDE = 64
# At 256 texels, 2 % are 20 of the 1,024 latent cells; with fewer the texture is a decal on a mostly unused picture.
MIN_COVERAGE = 0.02
# A picture resized to a square is squeezed by its aspect. Beyond 4 : 1 the details of one axis are gone; of the
# furniture this was set on, only strips (control panels, seams) are that long.
MAX_ASPECT = 4.0
# Covered texels that differ from their mean by less than 2 of 255 levels (RMS) are one colour and the noise of JPEG.
MIN_CONTRAST = 2.0
# UV coordinates are stored as float32, with 24 bits: where they reach further than this many texels from the origin,
# neighbouring coordinates are more than a texel apart, and no one can tell which texel is meant.
MAX_TEXELS_FROM_ORIGIN = float(1 << 24)
# More triangles without finite coordinates than this share: the file is damaged, the rest of it is not to be trusted.
MAX_NOT_FINITE = 0.01


def measure(
    texture: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    triangles: NDArray[np.float64] | None = None,
    surface: NDArray[np.float64] | None = None,
) -> dict[str, Measure]:
    """Measures of an atlas by name; plain finite values that go into JSON as they are.

    Shares are of 1. "lost" and "void" are for each way to bring the mask to latent size: which share of the covered
    texels gets no weight there, and which share of the weight falls on texels that are not covered.

    Args:
        texture: uint8 [H, W, 3].
        mask: bool [H, W].
        triangles: float64 [F, 3, 2] in UV units; without them nothing is said of the UV map itself.
        surface: float64 [F], area of each triangle on the mesh; without it nothing is said of the texel density.

    Raises:
        ValueError: shapes do not fit.
    """
    mask = np.asarray(mask, dtype=bool)
    if texture.shape != (*mask.shape, 3):
        raise ValueError(f"mask has shape {mask.shape}, texture {texture.shape}; use [H, W] and [H, W, 3]")
    height, width = mask.shape
    measures: dict[str, Measure] = {
        "height": height,
        "width": width,
        "square": height == width,
        "coverage": float(mask.mean()),
        "texture_sha256": hashlib.sha256(f"{width}x{height}".encode() + texture.tobytes()).hexdigest(),
    }
    measures |= _colours(texture, mask)
    measures |= _latent(mask)
    if triangles is not None:
        measures |= measure_mapping(np.asarray(triangles, dtype=np.float64), (height, width), surface)
    return measures


def verdict(measures: Mapping[str, Measure]) -> str | None:
    """None where the atlas is kept, else the first reason why it is set aside, as a clause about "the texture"."""
    height, width = float(measures["height"]), float(measures["width"])
    size = f"{width:.0f}x{height:.0f}"
    coverage = float(measures["coverage"])
    reach = max((abs(float(measures.get(f"uv_{end}_{axis}", 0))) for end in ("min", "max") for axis in "uv"), default=0)
    if min(height, width) < MIN_SIDE:
        return f"is {size} texels; a side below {MIN_SIDE} holds too little to learn from"
    if max(height, width) > MAX_ASPECT * min(height, width):
        return f"is {size} texels; beyond {MAX_ASPECT:g}:1 a square picture squeezes it too much"
    if float(measures.get("not_finite", 0)) > MAX_NOT_FINITE * float(measures.get("triangles", 0)):
        return f"has {measures['not_finite']} of {measures['triangles']} triangles whose UV coordinates are no numbers"
    if reach * max(height, width) > MAX_TEXELS_FROM_ORIGIN:
        return f"has UV coordinates as large as {reach:.3g}, too large to tell texels apart"
    if measures.get("udim", False):
        return f"is laid out in UDIM tiles ({measures['tiles']} of them), but there is one picture; bake it into one"
    if coverage == 0:
        return "is not covered by the UV map at any texel's centre"
    if coverage < MIN_COVERAGE:
        return f"is covered to {coverage:.2%} by the UV map, less than {MIN_COVERAGE:.0%}"
    if float(measures["contrast"]) < MIN_CONTRAST:
        return f"is plain where the UV map covers it (contrast {float(measures['contrast']):.1f} of 255)"
    if float(measures["latent_lost_nearest"]) == 1:
        return f"has {measures['islands']} islands, all too thin for a latent cell of {LATENT_CELL} texels"
    return None


def _colours(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> dict[str, Measure]:
    """Contrast: RMS distance from the mean colour, per channel, in 8-bit levels."""
    code = texture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)  # [H, W], 0xRRGGBB
    void = code[~mask]
    found = _distinct(void)
    return {
        "contrast": _contrast(texture, mask),
        "colours": len(_distinct(code[mask])),
        "void_contrast": _contrast(texture, ~mask),
        "void_colours": len(found),
        "void_constant": len(found) == 1,
        "void_colour": f"#{int(found[0]):06x}" if len(found) == 1 else "",
    }


def _distinct(codes: NDArray[np.uint32]) -> NDArray[np.intp]:
    seen = np.zeros(1 << 24, dtype=bool)
    seen[codes] = True
    return np.flatnonzero(seen)


def _contrast(texture: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    if not where.any():
        return 0.0
    _, deviation = cv2.meanStdDev(texture, mask=where.astype(np.uint8))
    return float(np.sqrt(np.mean(np.square(deviation))))


def _latent(mask: NDArray[np.bool_]) -> dict[str, Measure]:
    """Islands (texels that touch, corners too), and what each mask at latent size makes of them."""
    # Cells that the picture ends in are taken as far as they go.
    height, width = mask.shape
    rows, columns = -(-height // LATENT_CELL), -(-width // LATENT_CELL)
    padded = np.zeros((rows * LATENT_CELL, columns * LATENT_CELL), dtype=bool)
    padded[:height, :width] = mask
    cells = padded.reshape(rows, LATENT_CELL, columns, LATENT_CELL)
    covered = cells.sum(axis=(1, 3))  # texels
    sides = [np.minimum(LATENT_CELL, size - np.arange(0, size, LATENT_CELL)) for size in (height, width)]
    texels = sides[0][:, None] * sides[1]
    middle = LATENT_CELL // 2
    weights: dict[str, NDArray[np.floating] | NDArray[np.bool_]] = {
        "nearest": cells[:, 0, :, 0],
        "nearest_exact": cells[:, middle, :, middle],
        "area": covered / texels,
        "any": covered > 0,
        "all": covered == texels,
    }
    islands, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    seen = np.unique(labels[::LATENT_CELL, ::LATENT_CELL])
    measures: dict[str, Measure] = {
        "islands": islands - 1,
        "islands_lost": int(islands - 1 - np.count_nonzero(seen)),  # at latent size, by "nearest"
    }
    total = max(int(covered.sum()), 1)
    for mode, weight in weights.items():
        kept, given = float((covered * weight).sum()), float((texels * weight).sum())
        measures[f"latent_lost_{mode}"] = 1 - kept / total
        measures[f"latent_void_{mode}"] = 1 - kept / given if given else 0.0
    return measures
