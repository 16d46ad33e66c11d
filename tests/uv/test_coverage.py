import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from texdiff.uv.coverage import Mode, coverage_mask, overlap_count

SQUARE = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], dtype=np.float64)


def brute_force(triangles: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Signs of the three edge functions at every texel's centre: (strictly inside, on or near an edge)."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    inside, tie = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for triangle in triangles:
        points = [(u * width, (1 - v) * height) for u, v in triangle]
        edges = np.array(
            [
                (bx - ax) * (y - ay) - (by - ay) * (x - ax)
                for (ax, ay), (bx, by) in zip(points, points[1:] + points[:1], strict=True)
            ]
        )
        inside |= (edges > 1e-9).all(axis=0) | (edges < -1e-9).all(axis=0)
        tie |= (np.abs(edges) <= 1e-9).any(axis=0)
    return inside, tie & ~inside


def random_mesh(rng: np.random.Generator) -> np.ndarray:
    """Small, large, thin and flipped triangles within [0, 1]."""
    count = int(rng.integers(1, 60))
    middle = rng.random((count, 1, 2))
    spread = rng.choice([0.01, 0.1, 1.0], (count, 1, 1))
    triangles = np.clip(middle + spread * rng.normal(size=(count, 3, 2)), 0, 1)
    thin = rng.random(count) < 0.2
    triangles[thin, 2] = triangles[thin, 1] + 1e-3 * rng.normal(size=(thin.sum(), 2))
    return np.clip(triangles, 0, 1)


@pytest.mark.parametrize("seed", range(100))
def test_center_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    triangles = random_mesh(rng)
    height, width = (int(side) for side in rng.integers(1, 90, 2))
    inside, tie = brute_force(triangles, (height, width))
    assert np.array_equal(coverage_mask(triangles, (height, width))[~tie], inside[~tie])


@pytest.mark.parametrize("seed", range(25))
def test_conservative_holds_center_and_16x_supersamples(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    triangles = random_mesh(rng)
    size = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    touched = coverage_mask(triangles, size, "conservative")
    fine = coverage_mask(triangles, (16 * size[0], 16 * size[1]))
    supersampled = fine.reshape(size[0], 16, size[1], 16).any(axis=(1, 3))
    assert not (coverage_mask(triangles, size) & ~touched).any()
    assert not (supersampled & ~touched).any()
    # and it is no blanket: what it adds lies within a texel of what a sixteenth of a texel sees
    finest = coverage_mask(triangles, (16 * size[0], 16 * size[1]), "conservative")
    assert np.array_equal(touched, finest.reshape(size[0], 16, size[1], 16).any(axis=(1, 3)))


def test_conservative_does_not_reach_over_texel_borders() -> None:
    quarter = SQUARE * 0.5 + [0.25, 0.25]
    expected = np.zeros((8, 8), dtype=bool)
    expected[2:6, 2:6] = True
    assert np.array_equal(coverage_mask(quarter, (8, 8), "conservative"), expected)


@pytest.mark.parametrize(
    "points",
    [[[0.3, 0.6]] * 3, [[0.1, 0.5], [0.9, 0.5], [0.4, 0.5]], [[0.2, 0.1], [0.2, 0.9], [0.2, 0.5]], [[1.0, 0.0]] * 3],
)
def test_triangles_without_area_touch_but_do_not_cover(points: list[list[float]]) -> None:
    triangle = np.array([points])
    assert not coverage_mask(triangle, (10, 10)).any()
    touched = coverage_mask(triangle, (10, 10), "conservative")
    extent = np.ptp(np.array(points), axis=0).max() * 10
    assert max(extent - 0.01, 1) <= touched.sum() <= extent + 2


def test_row_0_is_the_top_where_v_is_1() -> None:
    upper_left = np.array([[[0, 0.5], [0.25, 0.5], [0.25, 1]], [[0, 0.5], [0.25, 1], [0, 1]]])
    expected = np.zeros((4, 8), dtype=bool)
    expected[:2, :2] = True
    assert np.array_equal(coverage_mask(upper_left, (4, 8)), expected)


@pytest.mark.parametrize("cells", [1, 3, 7, 64, 100])
def test_a_grid_of_triangles_covers_every_texel_exactly_once(cells: int) -> None:
    """Diagonals and sides run through many centres; the half-open rule gives each to one triangle."""
    line = np.linspace(0, 1, cells + 1)
    corner = np.stack(np.meshgrid(line, line), axis=-1)
    a, b, c, d = corner[:-1, :-1], corner[:-1, 1:], corner[1:, 1:], corner[1:, :-1]
    both = np.concatenate([np.stack([a, b, c], axis=2), np.stack([a, c, d], axis=2)]).reshape(-1, 3, 2)
    for size in ((64, 64), (50, 70)):
        assert (overlap_count(both, size) == 1).all()


@settings(deadline=None, max_examples=60)
@given(
    triangles=arrays(np.float64, (4, 3, 2), elements=st.floats(0, 1)),
    shift=arrays(np.int64, (4, 1, 2), elements=st.integers(-40, 40)),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
)
def test_whole_tiles_change_nothing(triangles: np.ndarray, shift: np.ndarray, size: tuple[int, int]) -> None:
    triangles = np.round(triangles * 1024) / 1024 + 1 / 4096  # exact under a shift, and no centre lies on an edge ...
    inside, tie = brute_force(triangles, size)
    moved = overlap_count(triangles + shift, size)
    assert np.array_equal(moved[~tie], overlap_count(triangles, size)[~tie])  # ... or is left out
    assert np.array_equal((moved > 0)[~tie], inside[~tie])


@settings(deadline=None, max_examples=60)
@given(
    corners=arrays(np.int64, (3, 3, 2), elements=st.integers(-300, 300)),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    mode=st.sampled_from(["center", "conservative"]),
)
def test_wrapping_is_a_sum_over_tiles(corners: np.ndarray, size: tuple[int, int], mode: Mode) -> None:
    """The texture repeated 8 x 8 times, rasterised as one large picture, then folded."""
    triangles = (corners + np.array([0.37182818, 0.2236068])) / 100  # no edge through a texel's corner, which rounds
    height, width = size
    large = (triangles + 4) / 8, (8 * height, 8 * width)
    folded = overlap_count(*large, mode).reshape(8, height, 8, width).sum(axis=(0, 2))
    certain = ~brute_force(*large)[1].reshape(8, height, 8, width).any(axis=(0, 2))
    if mode == "conservative":
        (ax, ay), (bx, by) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
        certain &= bool((ax * by != ay * bx).all())
    assert np.array_equal(overlap_count(triangles, size, mode)[certain], folded[certain])


def test_triangles_across_a_tile_border_come_back_on_the_other_side() -> None:
    across = SQUARE * [0.5, 1] + [0.75, 0]
    expected = np.zeros((8, 8), dtype=bool)
    expected[:, :2] = expected[:, 6:] = True
    assert np.array_equal(coverage_mask(across, (8, 8)), expected)
    assert np.array_equal(coverage_mask(across - [1, 3], (8, 8)), expected)


@pytest.mark.parametrize(
    "scale", [(3, 3), (200, 1), (1, 200), (100, 100), (3_443_870_976,) * 2, (1e30, 1e30), (1e300, 1e300)]
)
def test_repeats_are_counted_and_giants_take_no_time(scale: tuple[float, float]) -> None:
    count = overlap_count(SQUARE * scale, (16, 24))
    expected = min(scale[0] * scale[1], np.iinfo(np.int32).max)
    assert np.allclose(count, expected, rtol=1e-3)


def test_tall_strips_are_worked_through_by_columns() -> None:
    strip = SQUARE * [0.25, 1000] + [0.5, -300.5]
    expected = np.zeros((8, 16), dtype=bool)
    expected[:, 8:12] = True
    assert np.array_equal(coverage_mask(strip, (8, 16)), expected)
    sloped = np.array([[[0.1, -99.0], [0.3, 1.0], [0.6, 2.0]]])
    by_tiles = np.zeros((16, 16), dtype=bool)
    for tile in range(-100, 4):
        window = coverage_mask((sloped - [0, tile - 1]) / [1, 300] + [0, 0.5], (300 * 16, 16))
        by_tiles |= window[150 * 16 - 16 - 16 : 150 * 16 - 16]
    assert (coverage_mask(sloped, (16, 16)) != by_tiles).mean() < 0.02


def test_not_finite_triangles_cover_nothing() -> None:
    bad = np.repeat(SQUARE, 3, axis=0)
    bad[0, 0, 0], bad[1, 1, 1], bad[2, 2, 0] = np.nan, np.inf, -np.inf
    assert np.array_equal(overlap_count(bad, (9, 9)), overlap_count(bad[3:], (9, 9)))


def test_flipped_triangles_cover_the_same() -> None:
    triangles = random_mesh(np.random.default_rng(7))
    assert np.array_equal(coverage_mask(triangles, (50, 50)), coverage_mask(triangles[:, ::-1], (50, 50)))


def test_no_triangles_cover_nothing() -> None:
    for mode in ("center", "conservative"):
        assert not coverage_mask(np.zeros((0, 3, 2)), (5, 6), mode).any()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("triangles", "size", "mode"),
    [(np.zeros((3, 2)), (4, 4), "center"), (SQUARE, (0, 4), "center"), (SQUARE, (4, 4), "centre")],
)
def test_wrong_arguments_are_refused(triangles: np.ndarray, size: tuple[int, int], mode: str) -> None:
    with pytest.raises(ValueError, match="use"):
        coverage_mask(triangles, size, mode)  # type: ignore[arg-type]
