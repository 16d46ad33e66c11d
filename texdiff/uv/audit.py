"""What is wrong with an atlas: measures, and the verdict whether it is kept."""

import numpy as np
from numpy.typing import NDArray

from texdiff.uv.coverage import overlap_count

MIN_SIDE = 64  # fewer texels give 8 x 8 latents at most: no texture to learn
MIN_COVERAGE = 0.02  # below, a 64 x 64 latent holds fewer than about 80 covered cells


def measure(
    texture: NDArray[np.uint8], mask: NDArray[np.bool_], triangles: NDArray[np.float64] | None = None
) -> dict[str, bool | int | float | str]:
    """Measures of an atlas, plain values by name."""
    height, width = mask.shape
    measures: dict[str, bool | int | float | str] = {
        "height": height,
        "width": width,
        "coverage": float(mask.mean()),
    }
    if triangles is not None:
        count = overlap_count(triangles, mask.shape)
        measures["triangles"] = len(triangles)
        measures["overlap"] = float((count > 1).sum() / max((count > 0).sum(), 1))
    return measures


def verdict(measures: dict[str, bool | int | float | str]) -> str | None:
    """None where the atlas is kept, else the reason why it is set aside."""
    if min(int(measures["height"]), int(measures["width"])) < MIN_SIDE:
        return f"the picture is {measures['width']}x{measures['height']}; a side below {MIN_SIDE} holds no texture"
    if float(measures["coverage"]) < MIN_COVERAGE:
        return f"the UV map covers {float(measures['coverage']):.2%} of it, less than {MIN_COVERAGE:.0%}"
    return None
