import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.uv.resize import resize


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width] + 0.5
    return np.asarray((x / width - 0.5) ** 2 + (y / height - 0.5) ** 2 < 0.16)


@settings(deadline=None, max_examples=50)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 90), st.integers(1, 90), st.integers(0, 999))
def test_the_void_never_mixes_in(height: int, width: int, new_height: int, new_width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = disc(height, width)
    texture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture, covered = resize(texture, mask, (new_height, new_width))
    assert picture.shape == (new_height, new_width, 3)
    assert picture.dtype == np.uint8
    assert covered.shape == (new_height, new_width)
    assert covered.dtype == bool
    if (new_height, new_width) == (height, width):
        assert np.array_equal(picture, texture)
        assert np.array_equal(covered, mask)
        return
    other = np.where(mask[..., None], texture, rng.integers(0, 256, texture.shape, dtype=np.uint8))
    again, covered_again = resize(other, mask, (new_height, new_width))
    assert np.array_equal(again, picture)
    assert np.array_equal(covered_again, covered)


def test_plain_island_stays_plain() -> None:
    mask = disc(48, 48)
    texture = np.where(mask[..., None], np.uint8(200), np.uint8(0)).repeat(3, axis=2).astype(np.uint8)
    for size in ((16, 16), (31, 77), (96, 96), (20, 60)):
        picture, _ = resize(texture, mask, size)
        assert (picture == 200).all()


@pytest.mark.parametrize("size", [(16, 16), (31, 77), (128, 96)])
def test_coverage_stays(size: tuple[int, int]) -> None:
    mask = disc(64, 64)
    _, covered = resize(np.zeros((64, 64, 3), dtype=np.uint8), mask, size)
    assert covered.mean() == pytest.approx(mask.mean(), abs=0.02)


def test_shrinking_takes_the_mean_of_the_covered_texels() -> None:
    texture = np.zeros((2, 4, 3), dtype=np.uint8)
    texture[:, :2] = [[[10] * 3, [30] * 3], [[50] * 3, [255] * 3]]
    mask = np.array([[True, True, False, False], [True, False, False, False]])
    picture, covered = resize(texture, mask, (1, 2))
    assert covered.tolist() == [[True, False]]
    assert picture[0, 0].tolist() == [30, 30, 30]
    assert picture[0, 1].tolist() == [30, 30, 30]


def test_wrong_arguments_are_refused() -> None:
    texture = np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="empty"):
        resize(texture, np.zeros((4, 4), dtype=bool), (2, 2))
    with pytest.raises(ValueError, match="size"):
        resize(texture, np.ones((4, 4), dtype=bool), (0, 2))
