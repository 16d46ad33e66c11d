"""How much of a surface shows the void's colour."""

import numpy as np
import pytest

from texdiff.render.void import NEAR, common_colours, void_on_surface

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def noise(low: int, high: int) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (64, 64, 3), dtype=np.uint8)


def all_of_it() -> np.ndarray:
    return np.ones((64, 64), bool)


def test_a_void_on_a_quarter_of_the_surface() -> None:
    texture, mask = noise(0, 256), all_of_it()
    texture[:32, :32] = 0
    share = void_on_surface(texture, mask, [BLACK])
    assert 28**2 / 64**2 <= share <= 0.25  # its rim's windows reach into the noise
    assert void_on_surface(texture, mask, [WHITE]) == 0
    assert void_on_surface(texture, mask, [WHITE, BLACK]) == share
    assert void_on_surface(texture, mask, []) == 0
    mask[:32, :32] = False  # where it belongs
    assert void_on_surface(texture, mask, [BLACK]) == 0


def test_dark_is_not_flat() -> None:
    """Texels of up to 19 levels are all as good as black, but vary by 5.8 levels; of up to 13 by 4."""
    assert void_on_surface(noise(0, 20), all_of_it(), [BLACK]) < 0.1
    assert void_on_surface(noise(0, 14), all_of_it(), [BLACK]) > 0.9


def test_flat_is_not_black() -> None:
    """Greys by their distance from black, which is that of their lightness: the hues are alike."""
    shares = [void_on_surface(np.full((64, 64, 3), grey, np.uint8), all_of_it(), [BLACK]) for grey in range(64)]
    # ΔE₀₀ of two greys, by hand: L* = 903.3 Y below 0.008856, Y = (v / 255) / 12.92 below 10 levels; and
    # S_L = 1 + 0.015 (L/2 - 50)² / sqrt(20 + (L/2 - 50)²).
    light = np.array([v / 255 / 12.92 * 903.3 for v in range(10)])
    distance = light / (1 + 0.015 * (light / 2 - 50) ** 2 / np.sqrt(20 + (light / 2 - 50) ** 2))
    assert [share == 1 for share in shares[:10]] == list(distance <= NEAR)
    assert set(shares) == {0.0, 1.0}
    assert 10 < shares.index(0.0) < 40


def test_only_covered_texels_make_a_patch() -> None:
    """A strip two texels wide between noise is flat, since the noise is not covered."""
    texture = noise(0, 256)
    texture[:, 20:22] = 0
    mask = np.zeros((64, 64), bool)
    mask[:, 20:22] = True
    assert void_on_surface(texture, mask, [BLACK]) == 1
    assert void_on_surface(texture, all_of_it(), [BLACK]) == 0


def test_by_surface() -> None:
    texture = np.full((64, 64, 3), 200, np.uint8)
    texture[:, :32] = 0
    weight = np.ones((64, 64), np.float32)
    weight[:, :32] = 3
    share = void_on_surface(texture, all_of_it(), [BLACK], weight)
    assert share == pytest.approx(3 * 30 / (3 * 32 + 32))  # two columns of it look across
    with pytest.raises(ValueError, match="use one size"):
        void_on_surface(texture, all_of_it(), [BLACK], weight[:32])
    with pytest.raises(ValueError, match="nothing is covered, or has a weight"):
        void_on_surface(texture, all_of_it(), [BLACK], 0 * weight)


def test_common_colours_go_by_how_they_look() -> None:
    dark = [(0, 0, 0)] * 6 + [(3, 3, 3)] * 2 + [(0, 0, 0)] * 2
    found = common_colours([*dark, *[(255, 0, 255)] * 4, *[(40, 200, 40)], *[None] * 25])
    assert found == {(0, 0, 0): 0.25, (255, 0, 255): 0.1}
    assert common_colours([None, None]) == {}
    assert common_colours([]) == {}
