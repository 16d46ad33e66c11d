"""How different two colours look: CIE L*a*b* and the CIEDE2000 difference."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Linear sRGB to CIE XYZ (IEC 61966-2-1); white, the sum of each row, is D65.
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def to_lab(linear: ArrayLike) -> Floats:
    """Linear sRGB in [0, 1], [..., 3], to CIE L*a*b* for D65: L 0-100."""
    relative = np.asarray(linear, np.float64) @ (_XYZ / _XYZ.sum(axis=1, keepdims=True)).T
    root = np.where(relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def ciede2000(lab_a: ArrayLike, lab_b: ArrayLike) -> Floats:
    """ΔE₀₀ of colours in L*a*b*, [..., 3] each; about 1 is what one can just see.

    As Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula" (2005), with their names; k_L = k_C = k_H = 1.
    """
    (l_1, a_1, b_1), (l_2, a_2, b_2) = (np.moveaxis(np.asarray(lab, np.float64), -1, 0) for lab in (lab_a, lab_b))
    g = 0.5 * (1 - _saturated((np.hypot(a_1, b_1) + np.hypot(a_2, b_2)) / 2))
    (c_1, h_1), (c_2, h_2) = (
        (np.hypot((1 + g) * a, b), np.degrees(np.arctan2(b, (1 + g) * a)) % 360) for a, b in ((a_1, b_1), (a_2, b_2))
    )
    grey = c_1 * c_2 == 0  # no hue on one side
    turn = (h_2 - h_1 + 180) % 360 - 180  # the short way around, in [-180, 180)
    across = np.abs(h_2 - h_1) > 180  # the short way leads over 0
    mean_h = np.where(across, (h_1 + h_2 + 360) / 2 % 360, (h_1 + h_2) / 2)
    mean_h = np.where(grey, h_1 + h_2, mean_h)
    mean_l, mean_c = (l_1 + l_2) / 2, (c_1 + c_2) / 2
    delta_h = np.where(grey, 0, 2 * np.sqrt(c_1 * c_2) * np.sin(np.radians(turn) / 2))
    t = (
        1
        - 0.17 * np.cos(np.radians(mean_h - 30))
        + 0.24 * np.cos(np.radians(2 * mean_h))
        + 0.32 * np.cos(np.radians(3 * mean_h + 6))
        - 0.20 * np.cos(np.radians(4 * mean_h - 63))
    )
    s_l = 1 + 0.015 * (mean_l - 50) ** 2 / np.sqrt(20 + (mean_l - 50) ** 2)
    s_c, s_h = 1 + 0.045 * mean_c, 1 + 0.015 * mean_c * t
    rotation = np.radians(60 * np.exp(-(((mean_h - 275) / 25) ** 2)))
    r_t = -2 * _saturated(mean_c) * np.sin(rotation)
    l, c, h = (l_2 - l_1) / s_l, (c_2 - c_1) / s_c, delta_h / s_h  # noqa: E741
    return np.asarray(np.sqrt(np.maximum(l**2 + c**2 + h**2 + r_t * c * h, 0)))


def _saturated(chroma: Floats) -> Floats:
    return np.asarray(np.sqrt(chroma**7 / (chroma**7 + 25.0**7)))
