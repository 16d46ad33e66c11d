"""The map of a record's mesh as a layout net's pipeline takes it."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from texdiff.data.record import Record


def layout_input(record: Record, mask: NDArray[np.bool_], maps: str) -> Tensor | None:
    """float32 [1, 3, R, R] in [0, 1], 0 in the void: the record's layout map, or with `maps` "mask" its `mask`, bool
    [R, R]; None with "none". Raises InputError for a map that can't be read."""
    if maps == "none":
        return None
    if maps == "mask":
        return torch.from_numpy(mask.astype(np.float32)).expand(1, 3, -1, -1)
    return map_input(record.layout_map(len(mask)))


def map_input(values: NDArray[np.uint16]) -> Tensor:
    """A map, uint16 [H, W, 3] of which 65535 is 1, as float32 [1, 3, H, W]."""
    return torch.from_numpy(values.astype(np.float32) / 65535).permute(2, 0, 1)[None]
