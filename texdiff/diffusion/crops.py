"""Windows that visits to a large atlas are cut to, in its latents, and how often they show each of its cells.

Windows stay inside the atlas, so cells near its edges are in fewer of them, and void is to be left out. So windows have
chances of their own, which show the cells that count about alike, and what is left of the difference is known: a cell
that a visit shows with chance f weighs k / f in the loss. That gives every cell of the atlas the same weight in
expectation, at its edges, in its middle and in a lonely island.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from texdiff.diffusion.draws import SampleKey, keyed_generator

ROUNDS = 8
"""Times that the chances of windows are adapted to what they show, see `window_chances`. Of 40 masks of furniture at
256 cells a side and windows of 64, with the floor of `min_coverage` at 0: the harmonic mean of f over counting cells,
which is what an average over them gains from a visit, rises from 0.71 of a window that is covered all over to 0.79, and
of masks that cover 0.23 on average from 0.31 to 0.51. Twice as many rounds bring 0.01 more."""
_R2 = (0.7548776662466927, 0.5698402909980532)
"""Powers of 1 / p, p being the plastic number: multiples of this, modulo 1, fill a square evenly (Roberts 2018)."""


class Windows(NamedTuple):
    """The windows of one atlas of n x n cells; m = n - side + 1."""

    chances: Tensor
    """float64 [m, m] that a visit draws the window whose first row and column these are; their sum is 1."""
    frequency: Tensor
    """float64 [n, n] chance that a visit shows a cell."""


def window_chances(counts: Tensor, side: int, min_coverage: float = 0.0) -> Windows:
    """Chances of the windows of `side` cells in an atlas of which the cells `counts`, bool [n, n], are to be learnt.

    No window is drawn of which less than `min_coverage` (0-1) counts, but where one of its cells is in none that has
    more: then the fullest of those around that cell are. Every cell that counts is in a window.

    At first windows are as likely as if their centres were drawn from all cells, and those that reach over an edge
    moved inside. Then each of the `ROUNDS` is a step of expectation maximisation for the mixture of windows that cells
    were drawn from: p_w <- p_w * mean over counting cells c of [c in w] / f_c, with f_c the sum of p_w over the windows
    around c. It raises the geometric mean of f over these cells, and so evens it out.

    Raises ValueError where nothing counts, and for a window that is larger than the atlas.
    """
    if not counts.any():
        raise ValueError("no cell counts")
    if not 0 < side <= len(counts):
        raise ValueError(f"a window of {side} cells does not fit into {len(counts)}")
    coverage = _in_windows(counts.double(), side) / side**2
    fullest = _largest(F.pad(coverage, [side - 1] * 4), side)  # [n, n] of the windows around a cell
    asked = torch.where(counts, fullest.clamp(max=min_coverage), torch.inf)
    chances = (coverage >= -_largest(-asked, side)).double()
    chances[[0, -1]] *= side / 2
    chances[:, [0, -1]] *= side / 2
    for _ in range(ROUNDS):
        frequency = _around_cells(chances, side)
        chances = chances * _in_windows(torch.where(counts, 1 / frequency, 0.0), side) / counts.sum()
    return Windows(chances, _around_cells(chances, side))


def evening_weights(frequency: Tensor, counts: Tensor, weights: Tensor) -> Tensor:
    """Factors float64 [n, n] that even out the `frequency` of the cells that count; 1 elsewhere.

    A cell's is k / f. With k the mean frequency of `weights` [n, n], what each cell weighs, a visit shows the same
    weight with the factors as without, in expectation.
    """
    known = weights.double() * counts
    k = (frequency * known).sum() / known.sum()
    return torch.where(counts, k / frequency, 1.0)


def draw_scales(seed: int, keys: Sequence[SampleKey], count: int) -> list[int]:
    """Which of `count` scales each of the samples is seen at [B]: a texture's visits take turns, from one that is keyed
    by the texture."""
    return [_turn(seed, key, count)[1] for key in keys]


def draw_places(seed: int, keys: Sequence[SampleKey], count: int = 1) -> Tensor:
    """Where each of the samples is to be cut, float64 [B, 2] in [0, 1), for `window_at`.

    A texture's visits at one of `count` scales are points of a sequence that fills the square evenly, from a start that
    is keyed by the texture. Each alone is uniform.
    """
    places = []
    for key in keys:
        start = torch.rand(2, generator=keyed_generator(seed, key[1], "window"), dtype=torch.float64)
        places.append((start + _turn(seed, key, count)[0] * torch.tensor(_R2, dtype=torch.float64)) % 1)
    return torch.stack(places)


def _turn(seed: int, key: SampleKey, count: int) -> tuple[int, int]:
    """How often a texture has been seen at the visit's scale before, or once more, and which scale it is."""
    if count == 1:
        return key[0], 0
    first = torch.randint(count, (), generator=keyed_generator(seed, key[1], "scale")).item()
    return divmod(key[0] + int(first), count)


def window_at(chances: Tensor, place: Tensor) -> tuple[int, int]:
    """The first row and column of the window at `place` [2] in [0, 1), by the `chances` [m, m] of windows."""
    top = _quantile(chances.double().cumsum(dim=1)[:, -1], place[0])
    return top, _quantile(chances[top].double(), place[1])


def _quantile(chances: Tensor, at: Tensor) -> int:
    total = chances.cumsum(dim=0)
    found = torch.searchsorted(total, at.double() * total[-1], right=True)
    return int(found.minimum(torch.searchsorted(total, total[-1])))  # the last that has a chance


def _in_windows(cells: Tensor, side: int) -> Tensor:
    """Sums of [n, n] over every window, [m, m] by its first row and column."""
    total = F.pad(cells, (1, 0, 1, 0)).cumsum(dim=0).cumsum(dim=1)
    rows = total[side:] - total[:-side]
    return rows[:, side:] - rows[:, :-side]


def _around_cells(windows: Tensor, side: int) -> Tensor:
    """Sums of [m, m] over the windows around every cell, [n, n]."""
    return _in_windows(F.pad(windows, [side - 1] * 4), side)


def _largest(values: Tensor, side: int) -> Tensor:
    """The largest value in every window."""
    by_rows = F.max_pool2d(values[None], (1, side), stride=1)
    return F.max_pool2d(by_rows, (side, 1), stride=1)[0]
