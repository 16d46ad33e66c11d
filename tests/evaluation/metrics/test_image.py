"""PSNR and SSIM inside the mask: the textbook's where all is covered, and blind to the void."""

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.evaluation.metrics.image import psnr, ssim, ssim_map


def pictures(seed: int, n: int = 2, side: int = 40) -> np.ndarray:
    """Smooth, as textures are in the small: uint8 [n, side, side, 3]."""
    noise = np.random.default_rng(seed).uniform(0, 255, (n, side, side, 3))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    return np.clip((smooth - 127) * 4 + 127, 0, 255).astype(np.uint8)


def plain_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of one channel, with a Gaussian window of 11 x 11, from scipy's filter."""
    x, y = x.astype(float), y.astype(float)

    def mean(values: np.ndarray) -> np.ndarray:
        return scipy.ndimage.gaussian_filter(values, 1.5, radius=5)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 6.5025, 58.5225
    return (2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))


def test_psnr_by_hand() -> None:
    target = np.full((1, 4, 4, 3), 100, np.uint8)
    picture = target.copy()
    picture[0, 0, 0] += 10  # one of the two covered texels
    mask = np.zeros((1, 4, 4), bool)
    mask[0, 0, :2] = True
    assert psnr(picture, target, mask)[0] == pytest.approx(10 * np.log10(255**2 / 50))
    assert psnr(picture, target, ~mask)[0] == np.inf


def test_ssim_is_the_textbooks_where_windows_are_whole() -> None:
    x, y = pictures(0), pictures(1)
    every = np.ones(x.shape[:3], bool)
    for i in range(2):
        ours = ssim_map(x[i], y[i], every[i])
        for channel in range(3):
            plain = plain_ssim(x[i, ..., channel], y[i, ..., channel])
            np.testing.assert_allclose(ours[5:-5, 5:-5, channel], plain[5:-5, 5:-5], atol=1e-9)
    assert ssim(x, x, every) == pytest.approx([1, 1])


def test_ssim_of_an_island_is_that_of_the_island_alone() -> None:
    """Cut out of its picture it has the same value: nothing beyond its border is looked at."""
    x, y = pictures(0), pictures(1)
    mask = np.zeros(x.shape[:3], bool)
    mask[:, 7:26, 11:33] = True
    cut = (slice(None), slice(7, 26), slice(11, 33))
    alone = ssim(x[cut].copy(), y[cut].copy(), np.ones((2, 19, 22), bool))
    np.testing.assert_allclose(ssim(x, y, mask), alone, rtol=1e-12)


@given(seed=st.integers(0, 1000), share=st.floats(0.02, 0.98))
@settings(deadline=None, max_examples=15)
def test_the_void_does_not_count(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = pictures(seed, side=24), pictures(seed + 1, side=24)
    mask = rng.uniform(size=(2, 24, 24)) < share
    mask[:, 3, 3] = True
    noise = rng.integers(0, 256, x.shape, np.uint8)
    other = np.where(mask[..., None], x, noise)
    for metric in (psnr, ssim):
        np.testing.assert_array_equal(metric(other, y, mask), metric(x, y, mask))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_floats_and_misfits_are_refused(metric: object) -> None:
    assert callable(metric)
    x, mask = pictures(0), np.ones((2, 40, 40), bool)
    for bad in (x / 255, x.astype(np.float32), x.astype(np.int32), x[0], x[..., :1]):
        with pytest.raises(ValueError, match="uint8"):
            metric(bad, x, mask)
        with pytest.raises(ValueError, match="uint8"):
            metric(x, bad, mask)
    for bad_mask in (mask[:1], mask.astype(np.uint8), mask[:, :20]):
        with pytest.raises(ValueError, match="masks are"):
            metric(x, x, bad_mask)
    with pytest.raises(ValueError, match="empty"):
        metric(x, x, np.zeros_like(mask))
    with pytest.raises(ValueError, match="one size"):
        metric(x, x[:, :30], mask)
