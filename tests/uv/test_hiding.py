"""What is hidden of a texture: islands as a whole, by a choice that a mask and a number make."""

import cv2
import numpy as np
import pytest

from texdiff.uv.gutter import fill
from texdiff.uv.hiding import Hiding, hide_islands, known_pixels


@pytest.fixture
def covered() -> np.ndarray:
    """Nine islands of different sizes."""
    mask = np.zeros((96, 96), bool)
    for number in range(9):
        y, x = 32 * (number // 3), 32 * (number % 3)
        mask[y + 2 : y + 10 + 2 * number, x + 2 : x + 30] = True
    return mask


def test_islands_are_hidden_as_a_whole_and_never_none(covered: np.ndarray) -> None:
    count, labels = cv2.connectedComponents(covered.astype(np.uint8), connectivity=8)
    shares = []
    for variant in range(200):
        hidden = hide_islands(covered, variant)
        assert not (hidden & ~covered).any()
        assert all(len(np.unique(hidden[labels == island])) == 1 for island in range(1, count))
        shares.append(hidden.sum() / covered.sum())
        assert shares[-1] > 0
    assert np.mean(shares) == pytest.approx(0.55, abs=0.1)  # uniform, and then up to the end of an island
    assert max(shares) > 0.95
    assert min(shares) < 0.15


def test_the_choice_is_that_of_mask_and_variant_alone(covered: np.ndarray) -> None:
    choices = [hide_islands(covered, variant) for variant in range(8)]
    assert all(np.array_equal(hide_islands(covered.copy(), v), choice) for v, choice in enumerate(choices))
    assert len({choice.tobytes() for choice in choices}) > 5
    other = covered.copy()
    other[0, 0] = True
    assert any((hide_islands(other, v) & covered != choice).any() for v, choice in enumerate(choices))


def test_a_single_island_is_hidden() -> None:
    assert hide_islands(np.ones((8, 8), bool), 0).all()


def test_layout_hides_everything_in_one_way(covered: np.ndarray) -> None:
    hiding = Hiding(mode="layout", variants=4)
    assert hiding.count == 1
    assert np.array_equal(hiding.hidden(covered, 0), covered)


def test_what_is_known_tells_nothing_of_what_is_hidden(covered: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    texture = generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)
    hidden = hide_islands(covered, 1)
    assert hidden.any()
    assert (covered & ~hidden).any()
    known = known_pixels(texture, covered, hidden)
    assert known.dtype == np.float32
    assert (known[hidden] == 0).all()
    visible = covered & ~hidden
    assert np.allclose(known[~hidden], (fill(texture, visible) / 127.5 - 1)[~hidden], atol=1e-6)
    changed = np.where(visible[..., None], texture, 255 - texture)
    assert np.array_equal(known_pixels(changed, covered, hidden), known)


def test_where_nothing_is_left_nothing_is_told_unless_the_void_is_kept(covered: np.ndarray) -> None:
    texture = np.full((96, 96, 3), 200, np.uint8)
    assert not known_pixels(texture, covered, covered).any()
    kept = known_pixels(texture, covered, covered, "keep")
    assert (kept[~covered] == np.float32(200) / np.float32(127.5) - 1).all()
    assert not kept[covered].any()
