"""In which order the samples of a dataset are visited: a function of the seed and of where in the stream of visits one
is, so that it can be continued anywhere, by any number of processes.

    rows    each epoch is a permutation of all rows
    blocks  each epoch is a permutation of the blocks of BLOCK rows that follow one another, and within each WINDOW of
            blocks one of their rows. What is read one after another then lies in few places, which matters where that
            is storage with an address, or more than memory holds. A dataset of one window is visited as by rows.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from texdiff.diffusion.draws import SampleKey, keyed_generator

Order = Literal["rows", "blocks"]
BLOCK, WINDOW = 256, 16  # rows of a block, as many as the cache has in a file; blocks whose rows are mixed


def sample_keys(seed: int, start: int, count: int, size: int, part: int = 0, order: Order = "rows") -> list[SampleKey]:
    """Samples number `start` to `start + count` of the endless stream of epochs, each a permutation of a dataset of
    `size` rows, or of a part of it that has epochs of its own.

    The stream does not stop at an epoch's end, so no batch is ever short and progress is one number.
    """
    keys: list[SampleKey] = []
    position, end = start, start + count
    while position < end:
        epoch, offset = divmod(position, size)
        stretch = _stretch(seed, epoch, size, part, offset, order)
        begin = offset - stretch.start
        taken = stretch.rows[begin : begin + end - position].tolist()
        keys += [(epoch, index) for index in taken]
        position += len(taken)
    return keys


class _Stretch(NamedTuple):
    """Rows that follow one another in an epoch's order, the first of which is number `start` of it."""

    epoch: tuple[int, int, int, Order]
    start: int
    rows: Tensor  # int64


# Of each part its newest: a large one takes longer to make than a step, and samples come in order.
_stretches: dict[int, _Stretch] = {}


def _stretch(seed: int, epoch: int, size: int, part: int, offset: int, order: Order) -> _Stretch:
    """The stretch that has number `offset` of an epoch."""
    wanted, known = (seed, epoch, size, order), _stretches.get(part)
    if known is None or known.epoch != wanted or not 0 <= offset - known.start < len(known.rows):
        key: list[int] = [part] if part else []
        if order == "rows" or size <= BLOCK * WINDOW:
            start, rows = 0, _permutation(size, seed, epoch, "order", *key)
        else:
            start, rows = _window(seed, epoch, size, key, offset)
        known = _stretches[part] = _Stretch(wanted, start, rows)
    return known


def _window(seed: int, epoch: int, size: int, key: list[int], offset: int) -> tuple[int, Tensor]:
    """The window of blocks that has number `offset` of an epoch: the number of its first row, and its rows."""
    blocks = _permutation(-(-size // BLOCK), seed, epoch, "blocks", *key)
    ends = (size - blocks * BLOCK).clamp(max=BLOCK).cumsum(0)  # the last block of the dataset may be short
    number = int(torch.searchsorted(ends, offset, right=True)) // WINDOW
    first = number * WINDOW
    starts = blocks[first : first + WINDOW] * BLOCK
    rows = (starts[:, None] + torch.arange(BLOCK)).flatten()
    rows = rows[rows < size]
    mixed = rows[_permutation(len(rows), seed, epoch, "window", number, *key)]
    return int(ends[first - 1]) if first else 0, mixed


def _permutation(size: int, seed: int, *key: int | str) -> Tensor:
    return torch.randperm(size, generator=keyed_generator(seed, *key))
