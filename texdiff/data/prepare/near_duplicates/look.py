"""How a texture looks: told from others whatever its size, or how its file was compressed.

A look is the texture at 32 x 32, with the share of each cell that its mask covers. Two textures are the same where
their looks differ by little over what either covers, on average and in every cell.
"""

import base64

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 32  # cells of a look
MEAN, MOST = 4.0, 20.0
"""Levels of 255 by which looks of the same texture differ at most: as root of the mean square over covered cells, and
in one cell. Of 164 real textures 8 are second copies, which differ by 0.6 to 0.8 and 1 to 2.2; the nearest of the
others by 7.3 and 61 (docs/LOG.md)."""
ALL_OVER = 8.0  # the same over all cells, covered or not: beyond that looks are not compared


def look_of(texture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> str:
    """The look of a texture uint8 [H, W, 3] with its mask bool [H, W], as text: uint8 [32, 32, 4], of which the last is
    the covered share in 255ths."""
    planes = (texture, mask.astype(np.uint8) * np.uint8(255))
    cells = [cv2.resize(plane, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for plane in planes]
    return base64.b64encode(np.dstack(cells).tobytes()).decode()


def same_texture(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two looks, [32, 32, 4], are of the same texture."""
    squares = ((one[..., :3] - other[..., :3]) ** 2).mean(axis=-1)
    covered = np.maximum(one[..., 3], other[..., 3])
    if not covered.any():
        return False
    return bool(
        (squares * covered).sum() <= MEAN**2 * covered.sum() and squares[covered > 127].max(initial=0) <= MOST**2
    )


def read_look(text: str) -> NDArray[np.float32]:
    """A look, float32 [32, 32, 4]."""
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(SIDE, SIDE, 4).astype(np.float32)
