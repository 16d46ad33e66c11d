"""Windows of large atlases: how often each cell is seen, by formula and by counting."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from texdiff.diffusion.crops import draw_places, draw_scales, evening_weights, window_at, window_chances

atlases = hnp.array_shapes(min_dims=1, max_dims=1, min_side=3, max_side=9).flatmap(
    lambda shape: hnp.arrays(np.bool_, (shape[0], shape[0]), elements=st.booleans(), fill=st.booleans())
)


def islands(side=32):
    """Islands at an edge, in a corner, in the middle, and one alone."""
    counts = torch.zeros(side, side, dtype=torch.bool)
    counts[:10, :14] = counts[20:, 12:20] = counts[12:16, 8:] = counts[-1, 0] = True
    return counts


def shown(top, left, side, n):
    cells = torch.zeros(n, n)
    cells[top : top + side, left : left + side] = 1
    return cells


@settings(max_examples=25, deadline=None)
@given(counts=atlases, side=st.integers(1, 6), floor=st.sampled_from([0.0, 0.3, 0.8, 1.0]))
def test_every_cell_that_counts_weighs_the_same_in_the_end(counts, side, floor):
    counts = torch.from_numpy(counts)
    n = len(counts)
    if side > n or not counts.any():
        with pytest.raises(ValueError, match=r"no cell counts|does not fit"):
            window_chances(counts, side, floor)
        return
    chances, frequency = window_chances(counts, side, floor)
    assert chances.shape == (n - side + 1, n - side + 1)
    assert chances.sum().item() == pytest.approx(1)
    counted, weight = torch.zeros(n, n, dtype=torch.float64), torch.rand(n, n)
    even = evening_weights(frequency, counts, weight)
    weighed = torch.zeros(n, n, dtype=torch.float64)
    full = {}
    for top, left in np.ndindex(*chances.shape):
        window = shown(top, left, side, n)
        full[top, left] = (window * counts).sum().item() / side**2
        counted += chances[top, left] * window
        weighed += chances[top, left] * window * even
    torch.testing.assert_close(counted, frequency)
    assert (frequency[counts] > 0).all()
    torch.testing.assert_close(weighed[counts], weighed[counts][:1].expand(int(counts.sum())))
    # On the whole a visit weighs what it would without the factors.
    torch.testing.assert_close((weighed * weight)[counts].sum(), (frequency * weight)[counts].sum())
    # A window below the floor is the fullest there is for one of its cells.
    for (top, left), coverage in full.items():
        cells = [(y, x) for y, x in counts.nonzero().tolist() if shown(top, left, side, n)[y, x]]
        others = [max(full[y, x] for y, x in full if shown(y, x, side, n)[cell] > 0) for cell in cells]
        allowed = bool(cells) and (coverage >= floor or any(coverage == best for best in others))
        assert (chances[top, left].item() > 0) == allowed


def test_drawn_windows_come_as_often_as_their_chances_say():
    counts = islands()
    chances, frequency = window_chances(counts, 8)
    visits = 8_000
    places = torch.cat([draw_places(seed, [(0, index) for index in range(200)]) for seed in range(40)])
    drawn = Counter(window_at(chances, place) for place in places)
    assert all(chances[window] > 0 for window in drawn)
    seen = sum(count * shown(*window, 8, 32) for window, count in drawn.items())
    spread = (visits * frequency * (1 - frequency)).sqrt()
    off = (seen - visits * frequency) / spread.clamp(min=1)
    assert off[counts].abs().max() < 5
    # Edges and the lonely corner included, what each cell weighs in all is the same, to what chance leaves of it.
    weighed = (seen * evening_weights(frequency, counts, counts))[counts]
    assert weighed.std() / weighed.mean() < 0.08
    assert (chances.sum() - 1).abs() < 1e-12


def test_visits_are_spread_and_none_of_their_places_is_likelier():
    counts = torch.ones(48, 48, dtype=torch.bool)
    chances, _ = window_chances(counts, 12)

    def unseen(places):
        return 1 - sum(shown(*window_at(chances, place), 12, 48) for place in places).clamp(max=1).mean().item()

    spread, alone = [], []
    for texture in range(30):
        spread.append(unseen(draw_places(0, [(epoch, texture) for epoch in range(16)])))
        alone.append(unseen(draw_places(0, [(0, 1000 + 16 * texture + visit) for visit in range(16)])))
    assert np.mean(spread) < 0.5 * np.mean(alone)
    each = torch.stack([draw_places(0, [(epoch, texture) for texture in range(1000)]) for epoch in (0, 1, 7)])
    for epoch in each:
        for axis in epoch.T.numpy():
            counted, _ = np.histogram(axis, 10, (0, 1))
            assert ((counted - 100) ** 2 / 100).sum() < 30  # chi squared of 9 degrees of freedom: once in 2,000


def test_scales_take_turns_and_each_has_a_sequence_of_its_own():
    keys = [(epoch, 3) for epoch in range(12)]
    scales = draw_scales(0, keys, 3)
    assert Counter(scales) == {0: 4, 1: 4, 2: 4}
    assert {tuple(draw_scales(0, [(0, index) for index in range(20)], 3))} != {(0,) * 20}
    places = draw_places(0, keys, 3)
    for scale in range(3):
        mine = [row for row, of in enumerate(scales) if of == scale]
        steps = (places[mine][1:] - places[mine][:-1]) % 1
        torch.testing.assert_close(steps, steps[:1].expand_as(steps))
    assert torch.equal(draw_places(0, keys[5:6], 3), places[5:6])  # alone as among others
    assert draw_scales(0, keys, 1) == [0] * 12


def test_a_place_at_either_end_is_a_window_that_has_a_chance():
    counts = islands()
    chances, _ = window_chances(counts, 8)
    for place in ([0.0, 0.0], [1 - 2**-53] * 2, [0.0, 1 - 2**-53]):
        assert chances[window_at(chances, torch.tensor(place, dtype=torch.float64))] > 0
