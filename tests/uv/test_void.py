"""Which voids are one flat colour."""

import io

import numpy as np
import pytest
from PIL import Image

from texdiff.uv.void import flat_void


def halves(void: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A texture whose right half is void, of one colour, and its mask."""
    texture = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[:, :32] = True
    texture[~mask] = void
    return texture, mask


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 255), (127, 128, 15), (16, 31, 48)])
def test_a_flat_void_has_its_colour(colour: tuple[int, int, int]) -> None:
    texture, mask = halves(colour)
    assert flat_void(texture, mask) == colour
    assert flat_void(texture, ~mask) is None  # noise


def test_jpeg_leaves_a_void_flat() -> None:
    texture, mask = halves((96, 96, 96))
    file = io.BytesIO()
    Image.fromarray(texture).save(file, "JPEG", quality=85)
    compressed = np.asarray(Image.open(file))
    assert len(np.unique(compressed[~mask], axis=0)) > 1
    found = flat_void(compressed, mask)
    assert found is not None
    assert np.abs(np.array(found) - 96).max() <= 1


def test_half_of_the_void_must_have_the_colour() -> None:
    texture, mask = halves((0, 0, 0))
    other = np.random.default_rng(1).integers(60, 256, (64, 64, 3), dtype=np.uint8)
    texture[:31, 32:] = other[:31, 32:]
    assert flat_void(texture, mask) == (0, 0, 0)
    texture[:34, 32:] = other[:34, 32:]
    assert flat_void(texture, mask) is None


def test_a_gutter_is_no_void() -> None:
    texture, mask = halves((0, 0, 0))
    mask[:, :61] = True
    assert flat_void(texture, mask) is None
    assert flat_void(texture, np.ones_like(mask)) is None


def test_of_a_large_texture_some_texels_are_enough() -> None:
    texture = np.full((1024, 1024, 3), 200, np.uint8)
    mask = np.zeros((1024, 1024), bool)
    mask[:8] = True
    texture[::2, ::4] = np.random.default_rng(2).integers(0, 256, (512, 256, 3))
    assert flat_void(texture, mask) == (200, 200, 200)
