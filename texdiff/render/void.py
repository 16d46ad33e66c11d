"""Void on the surface: how much of a mesh shows the flat colour that the void of the training textures has."""

from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from texdiff.render.color import ciede2000, to_lab
from texdiff.render.sampling import to_linear

Colour = tuple[int, int, int]  # sRGB, 0-255 each

NEAR = 7.0
"""CIEDE2000. A grey of 30 is that far from black: what a small autoencoder makes of black, and black to who looks."""
FLAT = 5.0
"""Levels of 255 by which texels of a flat patch lie apart (RMS, per channel). Dark wood or cloth varies more."""
PATCH = 5
"""Texels along a side of a patch."""
_COMMON = 0.05  # of a dataset's textures have a colour of void that is common; a rarer one is not learnt
_MOST = 256  # different colours that are compared


def void_on_surface(
    texture: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    colours: Sequence[Colour],
    weight: ArrayLike | None = None,
) -> float:
    """Share of the covered texels, 0-1, that lie in a flat patch of one of the colours; by surface with its `weight`.

    A texel counts whose colour is within NEAR of one of them, and around which the covered texels of a window of PATCH
    by PATCH vary by no more than FLAT: else every dark texture had a black void on it. Flat black plastic counts all
    the same, so the number of a drawn texture means something beside that of real ones.

    Args:
        texture: uint8 [H, W, 3]; what it has outside the mask does not matter.
        mask: bool [H, W].
        colours: those of the void (`common_colours`).
        weight: [H, W], surface of the mesh per texel, of any unit; without it every covered texel counts alike.

    Raises:
        ValueError: nothing is covered, nothing has a weight, or the shapes do not fit.
    """
    mask = np.asarray(mask, dtype=bool)
    weights = np.ones(mask.shape) if weight is None else np.asarray(weight, np.float64)
    if texture.shape != (*mask.shape, 3) or weights.shape != mask.shape:
        raise ValueError(f"texture has shape {texture.shape}, mask {mask.shape}, weights {weights.shape}; use one size")
    counted = weights[mask]
    if not counted.sum() > 0:
        raise ValueError("nothing is covered, or has a weight")
    lab = to_lab(to_linear(texture[mask]))
    near = np.zeros(len(lab), dtype=bool)
    for colour in colours:
        near |= ciede2000(lab, to_lab(to_linear(np.array(colour, np.uint8)))) <= NEAR
    return float(counted[near & _flat(texture, mask)[mask]].sum() / counted.sum())


def _flat(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where the covered texels around vary little: variance over the window, mean over the channels."""
    known = mask.astype(np.float64)
    values = np.where(mask[..., None], texture, 0).astype(np.float64)
    count = np.maximum(_window_sum(known), 1)[..., None]
    mean = _window_sum(values) / count
    variance = _window_sum(np.square(values)) / count - np.square(mean)
    return np.asarray(variance.mean(axis=2) <= FLAT**2)


def _window_sum(values: NDArray[np.float64]) -> NDArray[np.float64]:
    summed = cv2.boxFilter(values, -1, (PATCH, PATCH), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return np.asarray(summed, np.float64)


def common_colours(voids: Sequence[Colour | None]) -> dict[Colour, float]:
    """The colours of void that are common in a dataset, of the flat void of each texture (`texdiff.uv.void`; None where
    it has none): each with the share of all textures, 0-1, whose void is within NEAR of it. Commonest first."""
    counts = Counter(colour for colour in voids if colour is not None)
    rest = counts.most_common(_MOST)
    labs = to_lab(to_linear(np.array([colour for colour, _ in rest], np.uint8).reshape(-1, 3)))
    numbers = np.array([count for _, count in rest], np.float64)
    near = ciede2000(labs[:, None], labs[None]) <= NEAR
    found: dict[Colour, float] = {}
    while len(rest) and (sums := near @ numbers).max(initial=0) >= max(_COMMON * len(voids), 1):
        best = int(sums.argmax())
        found[rest[best][0]] = float(sums[best] / len(voids))
        numbers = np.where(near[best], 0, numbers)
    return found
