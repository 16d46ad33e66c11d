"""Surface on the texels of a texture, against a brute force over texel centres."""

import time
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from texdiff.uv.coverage import coverage_mask, overlap_count
from texdiff.uv.measures import measure
from texdiff.uv.resize import resize
from texdiff.uv.texel_area import from_grey16, resize_texel_area, texel_area, to_grey16

SQUARE = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]], dtype=np.float64)


def brute_force(triangles: np.ndarray, surface: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Each triangle alone: the centres of the unwrapped plane that are inside, by the signs of the edge functions."""
    height, width = size
    result = np.zeros(size)
    for triangle, area in zip(triangles, surface, strict=True):
        x, y = triangle[:, 0] * width, (1 - triangle[:, 1]) * height
        columns = np.arange(np.floor(x.min()), np.ceil(x.max()) + 1)
        rows = np.arange(np.floor(y.min()), np.ceil(y.max()) + 1)
        px, py = np.meshgrid(columns + 0.5, rows + 0.5)
        edges = np.array(
            [(x[j] - x[i]) * (py - y[i]) - (y[j] - y[i]) * (px - x[i]) for i, j in ((0, 1), (1, 2), (2, 0))]
        )
        inside = (edges > 0).all(axis=0) | (edges < 0).all(axis=0)
        at = [(int(r), int(c)) for r, c in zip(py[inside] - 0.5, px[inside] - 0.5, strict=True)]
        at = at or [(int(np.floor(y.mean())), int(np.floor(x.mean())))]
        for r, c in at:
            result[r % height, c % width] += area / len(at)
    return result


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.02, 0.3, 2.5]))
def test_equals_brute_force_and_keeps_the_sum(seed: int, height: int, width: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 25))
    triangles = rng.random((count, 1, 2)) + spread * rng.normal(size=(count, 3, 2))
    surface = rng.exponential(size=count) * rng.choice([0.0, 1e-4, 1.0, 1e4], count)
    found = texel_area(triangles, surface, (height, width))
    np.testing.assert_allclose(found, brute_force(triangles, surface, (height, width)), rtol=1e-9, atol=1e-12)
    assert found.sum() == pytest.approx(surface.sum(), rel=1e-12)
    reached = coverage_mask(triangles[surface > 0], (height, width))
    assert (found[reached] > 0).all()


def test_what_is_not_covered_is_zero_to_the_last_bit() -> None:
    rng = np.random.default_rng(0)
    triangles = rng.random((200, 1, 2)) + 0.05 * np.array([[0, 0], [1, 0], [0, 1]])  # each covers several centres
    surface = 10.0 ** rng.uniform(-9, 3, 200)
    found = texel_area(triangles, surface, (256, 256))
    assert np.array_equal(found > 0, overlap_count(triangles, (256, 256)) > 0)


def test_overlaps_add() -> None:
    rng = np.random.default_rng(1)
    triangles, surface = rng.normal(size=(40, 3, 2)), rng.exponential(size=40)
    parts = [texel_area(triangles[i::2], surface[i::2], (24, 32)) for i in (0, 1)]
    np.testing.assert_allclose(texel_area(triangles, surface, (24, 32)), sum(parts), rtol=1e-12)


@pytest.mark.parametrize(
    ("points", "texel"),
    [
        ([[0.3, 0.61]] * 3, (3, 3)),
        ([[1.0, 0.0]] * 3, (9, 9)),  # on the border of a texture that nothing leaves
        ([[0.0, 1.0]] * 3, (0, 0)),
        ([[-0.05, 0.55], [-0.06, 0.55], [-0.05, 0.56]], (4, 9)),
        ([[7.31, -2.38]] * 3, (3, 3)),
        ([[0.31, 0.5], [0.31, 0.5], [0.31, 0.62]], (4, 3)),  # the centroid's, not a corner's
        ([[-1e30, 0.5], [0.5, -1e30], [1e30, 1e30]], None),  # reaches over more tiles than can be counted
        ([[np.nan, 0.5], [0.5, 0.5], [0.6, 0.6]], None),
    ],
)
def test_triangles_without_a_centre(points: list[list[float]], texel: tuple[int, int] | None) -> None:
    found = texel_area(np.array([points]), [5.0], (10, 10))
    if texel is None:
        assert found.sum() == pytest.approx(0.0 if np.isnan(points[0][0]) else 5.0)
        assert np.ptp(found) == 0
    else:
        assert found[texel] == 5.0
        assert found.sum() == 5.0


def test_tall_triangles_are_drawn_by_columns_with_the_same_sum() -> None:
    tall = np.array([[[0.1, 0.0], [0.4, 0.0], [0.25, 500.0]]])
    found = texel_area(tall, [2.0], (16, 16))
    assert found.sum() == pytest.approx(2.0, rel=1e-12)
    assert np.array_equal(found > 0, coverage_mask(tall, (16, 16)))


def test_no_triangle_and_no_surface_give_zeros() -> None:
    assert not texel_area(np.zeros((0, 3, 2)), [], (4, 4)).any()
    assert not texel_area(SQUARE, [0.0, 0.0], (4, 4)).any()


@pytest.mark.parametrize("surface", [[1.0], [1.0, -1.0], [1.0, np.nan], [[1.0, 1.0]]])
def test_odd_surface_is_refused(surface: list) -> None:
    with pytest.raises(ValueError, match="mesh_area"):
        texel_area(SQUARE, surface, (4, 4))


def test_a_hundred_thousand_triangles_take_less_than_a_second() -> None:
    side = np.linspace(0.02, 0.98, 225)
    u, v = np.meshgrid(side, side)
    points = np.stack([u, v], axis=-1) + np.random.default_rng(0).normal(size=(225, 225, 2)) * 4e-4
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    triangles = np.concatenate([np.stack([a, b, c], 2).reshape(-1, 3, 2), np.stack([a, c, d], 2).reshape(-1, 3, 2)])
    surface = np.ones(len(triangles))
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        found = texel_area(triangles, surface, (2048, 2048))
        best = min(best, time.perf_counter() - start)
    assert len(triangles) > 100_000
    assert found.sum() == pytest.approx(len(triangles), rel=1e-12)
    assert best < 1.0


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_grey_keeps_densities_and_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((16, 12)) < 0.5
    density = 10.0 ** rng.uniform(-14, 2, mask.shape) * (rng.random(mask.shape) < 0.9)
    grey = to_grey16(density, mask)
    assert grey.dtype == np.uint16
    assert np.array_equal(grey > 0, mask)
    if (density[mask] > 0).any():
        assert grey.max() == 65535
        share = density[mask] / density[mask].max()
        # half a level of 65535, on the root
        assert (np.abs(np.sqrt(from_grey16(grey)[mask]) - np.sqrt(share)) < 0.51 / 65535 + (share < 1e-9) / 65535).all()


def test_a_mask_without_surface_is_even() -> None:
    mask = np.eye(4, dtype=bool)
    assert np.array_equal(to_grey16(np.zeros((4, 4)), mask), 65535 * mask)


@settings(deadline=None, max_examples=40)
@example(194, 9, 72)
@given(st.integers(0, 10**6), st.integers(1, 80), st.integers(1, 80))
def test_resized_density_has_the_mask_of_resize_and_the_mean_of_the_covered(seed: int, rows: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.asarray(cv2.resize(rng.random((6, 8)), (40, 30))) > 0.5
    mask[3, 4] = True
    density = np.where(mask, rng.exponential(size=mask.shape), rng.exponential(size=mask.shape) * 1e6)
    small, covered = resize_texel_area(density, mask, (rows, columns))
    assert small.dtype == np.float32
    assert np.array_equal(covered, resize(np.zeros((30, 40, 3), np.uint8), mask, (rows, columns))[1])
    assert np.array_equal(small > 0, covered)
    assert small.max(initial=0) <= density[mask].max() * (1 + 1e-5)  # what stands in the void never mixes in


def test_shrinking_keeps_the_sum() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((64, 48)) < 0.8
    density = rng.exponential(size=mask.shape)
    small, covered = resize_texel_area(density, mask, (16, 16))
    cells = mask.reshape(16, 4, 16, 3)
    kept = np.where(covered[:, None, :, None], np.where(mask, density, 0).reshape(16, 4, 16, 3), 0).sum()
    assert (small * cells.mean(axis=(1, 3)) * 12).sum() == pytest.approx(kept, rel=1e-5)


@pytest.mark.parametrize("by_columns", [False, True])
def test_large_textures_fit_into_a_workers_memory(by_columns: bool) -> None:
    """One of 13400 x 13400 within a worker's 4 GiB: 24 bytes per texel, of which 4 hold texture and mask."""
    side = 2048
    corners = np.array([[[0, 0.1], [1, 0.1], [1, 0.9]], [[-0.5, 0.2], [0.4, 0.2], [0.4, 0.9]]])
    triangles = corners[..., ::-1].copy() if by_columns else corners
    texture, mask = np.zeros((side, side, 3), np.uint8), coverage_mask(triangles, (side, side))
    steps = {
        "measure": lambda: measure(texture, mask, triangles, np.ones(2)),
        "texel_area": lambda: to_grey16(texel_area(triangles, np.ones(2), (side, side)), mask),
    }
    for name, step in steps.items():
        tracemalloc.start()
        step()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 20 * side * side, name
