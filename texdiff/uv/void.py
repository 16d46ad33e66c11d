"""The void of an atlas: whether it is one flat colour, which a model that is trained on it would learn to paint."""

import numpy as np
from numpy.typing import NDArray

# Less void than this is a gutter between islands, which teaches little beside them.
MIN_VOID = 0.05
# Of the void's texels so many must have one colour. Bakers and painters leave shadows, notes and padding in the rest.
MIN_SHARE = 0.5
# Levels of 255 by which a channel may differ from that colour: what JPEG makes of a flat one.
TOLERANCE = 8
# The colour is searched for among at most this many texels, evenly spaced.
_LOOKED_AT = 1 << 16
_BIN = 16  # levels


def flat_void(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> tuple[int, int, int] | None:
    """The colour (0-255 each) of at least MIN_SHARE of the texels that are not covered; None where there is none, or
    where less than MIN_VOID of the texture is void.

    texture uint8 [H, W, 3], mask bool [H, W].
    """
    outside = ~np.asarray(mask, dtype=bool)
    if outside.mean() < MIN_VOID:
        return None
    places = np.flatnonzero(outside)
    void = texture.reshape(-1, 3)[places[:: -(-len(places) // _LOOKED_AT)]].astype(np.int64)
    # A colour at a bin's edge falls into several; the median of the fullest one is within TOLERANCE all the same.
    bins = void // _BIN @ np.array([1 << 16, 1 << 8, 1])
    names, counts = np.unique(bins, return_counts=True)
    colour = np.median(void[bins == names[counts.argmax()]], axis=0)
    near = (np.abs(void - colour) <= TOLERANCE).all(axis=1)
    if near.mean() < MIN_SHARE:
        return None
    red, green, blue = (round(float(channel)) for channel in np.median(void[near], axis=0))
    return red, green, blue
