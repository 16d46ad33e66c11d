"""Triangles of a polygon cover it once: none is turned over, and their areas add up to the polygon's."""

import numpy as np
import pytest

from texdiff.uv.meshes.triangulate import MAX_CORNERS, triangulate

NOTCHED = np.array([[0, 0], [2, 0], [2, 2], [1, 0.5], [0, 2]], dtype=float)


def in_space(flat: np.ndarray, seed: int = 0) -> np.ndarray:
    """A flat polygon [n, 2] turned and moved in space, [n, 3]."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return flat @ turn[:2] + 5 * turn[2]


def areas(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Of each triangle, along the polygon's normal: negative where it is turned over."""
    normal = np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)
    a, b, c = np.moveaxis(points[triangles], 1, 0)
    return np.cross(b - a, c - a) @ normal / np.linalg.norm(normal) / 2


def shoelace(flat: np.ndarray) -> float:
    x, y = flat.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


@pytest.mark.parametrize("corners", [4, 5, 12, 90, 400])
def test_concave_polygons_are_covered_once(corners: int) -> None:
    rng = np.random.default_rng(corners)
    for seed in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        angle = (angle + np.linspace(0, 2 * np.pi, corners, endpoint=False)) / 2  # never half a turn between two
        flat = np.stack([np.cos(angle), np.sin(angle)], axis=1) * rng.uniform(0.2, 1, (corners, 1))
        flat = flat[:: 1 if seed % 2 else -1]
        points = in_space(flat, seed)
        (triangles,) = triangulate(points[None])
        assert triangles.shape == (corners - 2, 3)
        assert areas(points, triangles).min() > -1e-12
        assert areas(points, triangles).sum() == pytest.approx(shoelace(flat))


def test_corners_on_a_straight_edge_are_kept() -> None:
    """Their UV coordinates need not lie on a straight line."""
    flat = np.insert(NOTCHED, 1, [[0.5, 0], [1.5, 0]], axis=0)
    points = in_space(flat)
    (triangles,) = triangulate(points[None])
    assert set(triangles.ravel()) == set(range(7))
    uv = flat - [[0, 0], [0, 0.25], [0, 0.25], [0, 0], [0, 0], [0, 0], [0, 0]]  # the edge sags
    assert areas(in_space(uv), triangles).sum() == pytest.approx(shoelace(uv))


@pytest.mark.parametrize("points", [np.zeros((5, 3)), np.full((6, 3), 1e300), np.full((6, 3), np.nan)])
def test_what_is_no_polygon_is_cut_as_a_fan(points: np.ndarray) -> None:
    (triangles,) = triangulate(points[None])
    assert triangles.tolist() == [[0, i, i + 1] for i in range(1, len(points) - 1)]


def test_polygons_of_very_many_corners_are_cut_as_a_fan() -> None:
    flat = np.tile(NOTCHED, (MAX_CORNERS // 5 + 1, 1))
    assert (triangulate(in_space(flat)[None])[0, :, 0] == 0).all()
