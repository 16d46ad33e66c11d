import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.uv.gutter import fill


def atlas(seed: int, height: int, width: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Noise, and a mask of blocks and single texels."""
    rng = np.random.default_rng(seed)
    blocks = rng.random((height // 5 + 1, width // 5 + 1)) < share
    mask = np.kron(blocks, np.ones((5, 5), dtype=bool))[:height, :width].astype(bool)
    mask[rng.integers(height), rng.integers(width)] = True
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8), mask


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 9999), st.integers(1, 70), st.integers(1, 70), st.floats(0, 1))
def test_covered_texels_stay_and_the_void_has_no_say(seed: int, height: int, width: int, share: float) -> None:
    texture, mask = atlas(seed, height, width, share)
    filled = fill(texture, mask)
    assert filled.dtype == np.uint8
    assert np.array_equal(filled[mask], texture[mask])
    noise = np.random.default_rng(seed + 1).integers(0, 256, texture.shape, dtype=np.uint8)
    for void in (noise, np.zeros_like(texture), np.full_like(texture, (255, 0, 255))):
        assert np.array_equal(fill(np.where(mask[..., None], texture, void), mask), filled)
    low, high = texture[mask].min(axis=0), texture[mask].max(axis=0)
    assert ((filled >= low) & (filled <= high)).all()


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (128, 32)])
def test_mip_maps_show_only_the_colours_of_the_islands_beneath(size: tuple[int, int]) -> None:
    """A cell of any mip-map level that holds covered texels is within the range of their means, level by level."""
    texture, mask = atlas(3, *size, 0.25)
    filled = fill(texture, mask).astype(np.float64)
    for level in (1, 2, 3, 4, 5):
        step = 1 << level
        shape = (size[0] // step, step, size[1] // step, step)
        mip = filled.reshape(*shape, 3).mean(axis=(1, 3))
        weight = mask.reshape(shape).sum(axis=(1, 3))
        colours = np.where(mask[..., None], texture, 0).reshape(*shape, 3).sum(axis=(1, 3))
        held = weight > 0
        nearest = colours[held] / weight[held][:, None]
        whole = weight == step * step
        assert np.allclose(mip[whole], colours[whole] / (step * step))
        # Naive black void is off by up to 255; the fill stays near the mean of what the cell holds.
        distance = np.abs(mip[held] - nearest).mean()
        black = np.abs(colours[held] / (step * step) - nearest).mean()
        assert distance < 0.35 * black


def test_two_islands_meet_without_a_seam() -> None:
    """Between a dark and a bright island, 128 texels apart, the steps stay near those of a ramp (1.9)."""
    texture = np.zeros((64, 256, 3), dtype=np.uint8)
    mask = np.zeros((64, 256), dtype=bool)
    mask[:, :64] = mask[:, 192:] = True
    texture[:, 192:] = 240
    row = fill(texture, mask)[32, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert np.diff(row).max() <= 240 / 128 * 3
    assert row[66] < 30
    assert row[189] > 210


def test_one_texel_colours_everything() -> None:
    texture = np.zeros((33, 47, 3), dtype=np.uint8)
    mask = np.zeros((33, 47), dtype=bool)
    texture[5, 6], mask[5, 6] = (10, 200, 77), True
    assert (fill(texture, mask) == (10, 200, 77)).all()


def test_full_mask_changes_nothing() -> None:
    texture, _ = atlas(0, 31, 40, 1)
    filled = fill(texture, np.ones((31, 40), dtype=bool))
    assert np.array_equal(filled, texture)
    assert filled is not texture


def test_wrong_arguments_are_refused() -> None:
    texture = np.zeros((4, 5, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="empty"):
        fill(texture, np.zeros((4, 5), dtype=bool))
    with pytest.raises(ValueError, match="same size"):
        fill(texture, np.ones((5, 4), dtype=bool))
    with pytest.raises(ValueError, match="uint8"):
        fill(texture.astype(np.float32), np.ones((4, 5), dtype=bool))  # type: ignore[arg-type]
