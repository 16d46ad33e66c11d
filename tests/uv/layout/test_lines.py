"""Edges of UV maps as lines, against the distance of every texel from every edge."""

import numpy as np
import pytest

from texdiff.uv.layout.lines import line_map


def distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """From points [N, 2] to segments [E, 2], [N, E]."""
    along = end - start
    length = np.maximum((along**2).sum(-1), 1e-30)
    share = (((points[:, None] - start) * along).sum(-1) / length).clip(0, 1)
    return np.linalg.norm(points[:, None] - (start + share[..., None] * along), axis=-1)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("reach", [0.0, 1.5])
def test_lines_lie_on_the_edges_and_have_no_gaps(seed: int, reach: float) -> None:
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(3, 60)), int(rng.integers(3, 60))
    uv = rng.uniform(-reach, 1 + reach, (int(rng.integers(1, 8)), 3, 2))
    lit = line_map(uv, (height, width))
    start = np.stack([uv[..., 0] * width, (1 - uv[..., 1]) * height], -1).reshape(-1, 2)
    end = np.roll(start.reshape(-1, 3, 2), -1, axis=1).reshape(-1, 2)
    tiles = np.arange(-2, 4)
    row, column = np.nonzero(lit)
    nearest = np.full(len(row), np.inf)
    for x in tiles:
        for y in tiles:
            points = np.stack([column + 0.5 + x * width, row + 0.5 + y * height], -1)
            nearest = np.minimum(nearest, distances(points, start, end).min(axis=1))
    assert (nearest <= np.sqrt(0.5) + 1e-9).all()
    # Every point of every edge has a lit texel within one texel.
    shares = np.linspace(0, 1, 200)[:, None, None]
    points = (start + shares * (end - start)).reshape(-1, 2)
    around = np.pad(lit, 1, mode="wrap")
    grown = np.zeros_like(lit)
    for y in (0, 1, 2):
        for x in (0, 1, 2):
            grown |= around[y : y + height, x : x + width]
    assert grown[np.floor(points[:, 1]).astype(int) % height, np.floor(points[:, 0]).astype(int) % width].all()


def test_the_frame_of_the_square_is_the_frame_of_the_texture() -> None:
    uv = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], float)
    expected = np.zeros((8, 8), bool)
    expected[[0, -1]] = expected[:, [0, -1]] = True
    np.fill_diagonal(expected[::-1], True)  # the edge that both share, from bottom left to top right
    assert np.array_equal(line_map(uv, (8, 8)), expected)


def test_what_is_not_finite_or_endless_draws_nothing() -> None:
    uv = np.array([[[0, 0], [np.nan, 0], [1, 1]], [[0, 0], [1e9, 0], [0, 1e9]], [[1e30, 0], [1e30, 1], [1e30, 2]]])
    assert not line_map(uv, (8, 8)).any()
    assert not line_map(np.zeros((0, 3, 2)), (8, 8)).any()
    with pytest.raises(ValueError, match="size is"):
        line_map(uv, (0, 8))
