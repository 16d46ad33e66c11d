"""Whether a mask looks inverted: that of one texture, or those of a dataset."""

import math

import numpy as np
from numpy.typing import NDArray

# Of 155 furniture textures with a void, 83 % vary more inside the mask than outside. Among 8 textures whose masks are
# right, two thirds the other way round would happen once in 2,000 datasets; of fewer, so many must be the other way
# round that it would happen less than once in 1,000.
_OTHER_WAY_ROUND = 0.17
_ENOUGH, _MOST = 8, 2 / 3
_CHANCE = 1 / 1000


def variation(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[float, float] | None:
    """Share of horizontal neighbours that differ, inside the mask and outside; None where one of these is next to none.

    texture uint8 [H, W, 3], mask bool [H, W]. Differences of up to 2 grey levels are JPEG's, not the texture's.
    """
    differ = np.abs(np.diff(texture.astype(np.int16), axis=1)).max(axis=2, initial=0) > 2
    inside = mask[:, 1:] & mask[:, :-1]
    outside = ~mask[:, 1:] & ~mask[:, :-1]
    if not inside.any() or outside.sum() < 0.02 * mask.size:
        return None
    return float(differ[inside].mean()), float(differ[outside].mean())


def many_inverted(outside: int, compared: int) -> bool:
    """Whether a dataset's masks must be inverted, of which so many textures, out of those that could be compared, vary
    more outside than inside."""
    if compared >= _ENOUGH:
        return outside >= _MOST * compared
    p, at_least = _OTHER_WAY_ROUND, range(outside, compared + 1)
    return sum(math.comb(compared, k) * p**k * (1 - p) ** (compared - k) for k in at_least) < _CHANCE


def looks_inverted(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> bool:
    """Whether the void is what varies: next to no neighbours differ inside the mask, and many outside."""
    shares = variation(texture, mask)
    return shares is not None and shares[0] < 0.01 and shares[1] > 0.2
