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
    values = record.layout_map(len(mask)).astype(np.float32) / 65535
    return torch.from_numpy(values).permute(2, 0, 1)[None]
