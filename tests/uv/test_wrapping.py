"""Triangles of textures that clamp or mirror: what their corners carry is cut along with them."""

import numpy as np
import pytest

from texdiff.uv.wrapping import to_repeating


def folded(along: np.ndarray, mode: str) -> np.ndarray:
    """Where a coordinate lies in [0, 1]."""
    if mode == "mirror":
        return 1 - np.abs(along % 2 - 1)
    return along % 1 if mode == "repeat" else along


@pytest.mark.parametrize("wrap", [("clamp", "clamp"), ("mirror", "mirror"), ("clamp", "mirror"), ("repeat", "clamp")])
@pytest.mark.parametrize("seed", range(10))
def test_values_of_the_corners_are_cut_along(seed: int, wrap: tuple[str, str]) -> None:
    rng = np.random.default_rng(seed)
    triangles = rng.uniform(-2, 3, (30, 3, 2))
    matrix, offset = rng.normal(size=(2, 5)), rng.normal(size=5)
    uv, area, values = to_repeating(triangles, np.ones(30), wrap, triangles @ matrix + offset)
    assert uv.shape[:2] == values.shape[:2]
    assert len(uv) > 30 or "mirror" not in wrap
    # Values are linear in the coordinates before they were folded, so they tell what these were.
    before = (values - offset) @ np.linalg.pinv(matrix)
    np.testing.assert_allclose(before @ matrix + offset, values, atol=1e-9)
    for axis, mode in enumerate(wrap):
        if mode == "repeat":
            np.testing.assert_allclose(before[..., axis], uv[..., axis], atol=1e-9)
        else:
            np.testing.assert_allclose(folded(before[..., axis], mode), uv[..., axis], atol=1e-9)
            assert uv[..., axis].min() >= -1e-9
            assert uv[..., axis].max() <= 1 + 1e-9
    plain = to_repeating(triangles, np.ones(30), wrap)
    assert np.array_equal(plain[0], uv)
    assert np.array_equal(plain[1], area)
    assert plain[2].shape == (*uv.shape[:2], 0)


def test_a_texture_that_repeats_is_left_as_it_is() -> None:
    triangles, values = np.random.default_rng(0).uniform(-2, 3, (2, 9, 3, 2))
    uv, _, kept = to_repeating(triangles, np.ones(9), ("repeat", "repeat"), values)
    assert uv is triangles
    assert kept is values
