"""The order of visits: permutations, one stream however it is cut, and with blocks only few of them at a time."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.diffusion import order
from texdiff.diffusion.draws import keyed_generator
from texdiff.diffusion.order import sample_keys

BLOCK, WINDOW = 5, 3


@pytest.fixture(scope="module", autouse=True)
def small_blocks() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "BLOCK", BLOCK)
        patch.setattr(order, "WINDOW", WINDOW)
        patch.setattr(order, "_stretches", {})
        yield


def epoch_of(seed: int, epoch: int, size: int, part: int = 0) -> list[int]:
    keys = sample_keys(seed, epoch * size, size, size, part, "blocks")
    assert [found for found, _ in keys] == [epoch] * size
    return [index for _, index in keys]


def windows(rows: list[int], size: int) -> Iterator[set[int]]:
    """The blocks of each window, by the rows alone: a window ends where all rows of its blocks have come."""
    while rows:
        full = BLOCK * WINDOW
        less = full - BLOCK + (size - 1) % BLOCK + 1  # of a window with the dataset's last block
        length = less if any(row // BLOCK == (size - 1) // BLOCK for row in rows[:less]) else full
        window, rows = rows[:length], rows[length:]
        blocks = {row // BLOCK for row in window}
        assert sorted(window) == [row for row in range(size) if row // BLOCK in blocks]
        yield blocks


sizes = st.integers(BLOCK * WINDOW + 1, 120)


@settings(max_examples=80, deadline=None)
@given(size=sizes, seed=st.integers(0, 99), epoch=st.integers(0, 3), part=st.integers(0, 2))
def test_an_epoch_is_a_permutation_and_no_window_has_rows_of_other_blocks(size, seed, epoch, part):
    rows = epoch_of(seed, epoch, size, part)
    assert sorted(rows) == list(range(size))
    found = list(windows(rows, size))
    assert all(len(blocks) == WINDOW for blocks in found[:-1])
    assert sum(map(len, found)) == -(-size // BLOCK)


@settings(max_examples=60, deadline=None)
@given(size=sizes, seed=st.integers(0, 99), cuts=st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_the_order_is_the_same_wherever_a_run_is_stopped_and_whoever_asks(size, seed, cuts):
    whole = [
        key
        for epoch in range(sum(cuts) // size + 1)
        for key in sample_keys(seed, epoch * size, size, size, order="blocks")
    ]
    start = 0
    for cut in cuts:
        order._stretches.clear()  # as in a new process
        assert sample_keys(seed, start, cut, size, order="blocks") == whole[start : start + cut]
        start += cut
    assert [sample_keys(seed, at, 1, size, order="blocks")[0] for at in reversed(range(start))] == whole[:start][::-1]


def test_blocks_and_rows_are_mixed_anew_by_seed_epoch_and_part():
    size = 100
    found = [epoch_of(*which) for which in ((0, 0, size), (1, 0, size), (0, 1, size), (0, 0, size, 1))]
    assert len({tuple(rows) for rows in found}) == 4
    assert len({tuple(map(tuple, map(sorted, windows(rows, size)))) for rows in found}) == 4


def test_every_row_comes_anywhere():
    """Of 3000 epochs, a row's mean place is the middle: of 35 rows, 17 with a standard deviation of 0.18."""
    size = 35
    places = np.argsort([epoch_of(0, epoch, size) for epoch in range(3000)], axis=1)
    assert np.abs(places.mean(axis=0) - 17).max() < 4 * places.std() / np.sqrt(3000)


@pytest.mark.parametrize("size", [1, 14, 15, 100])
def test_by_rows_and_in_one_window_the_order_is_what_it_always_was(size):
    expected = []
    for epoch in range(3):
        rows = torch.randperm(size, generator=keyed_generator(7, epoch, "order"))
        expected += [(epoch, index) for index in rows.tolist()]
    assert sample_keys(7, 0, 3 * size, size) == expected
    assert (sample_keys(7, 0, 3 * size, size, order="blocks") == expected) == (size <= BLOCK * WINDOW)
