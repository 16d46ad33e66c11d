"""Weights by the mesh's surface, against float64 numpy, cell by cell."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from texdiff.diffusion.mask import cell_weights, downsample, weigh_by_density


def latent_weights(*given: object, **named: object) -> torch.Tensor:
    """What each latent cell counts in all."""
    weights = cell_weights(*given, **named)
    return weights.target + weights.outside


def by_hand(weights: np.ndarray, mask: np.ndarray, density: np.ndarray) -> np.ndarray:
    cell = mask.shape[0] // weights.shape[0]
    result = np.zeros(weights.shape)
    for i, j in np.ndindex(*weights.shape):
        inside = mask[i * cell : (i + 1) * cell, j * cell : (j + 1) * cell] > 0
        here = density[i * cell : (i + 1) * cell, j * cell : (j + 1) * cell][inside]
        result[i, j] = here.mean() if inside.any() else density[mask > 0].mean()
    counted = np.sort(result[weights > 0])
    if len(counted):
        result = weights * np.minimum(result, 16 * counted[(len(counted) - 1) // 2])
    return result * weights.sum() / result.sum() if result.sum() else weights


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(["nearest", "nearest-exact", "area", "any", "all"]), st.integers(-1, 1))
def test_equals_the_sum_by_hand(seed: int, mode: str, dilation: int) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((2, 1, 32, 24)) < rng.choice([0.1, 0.6, 0.95])).astype(np.float32)
    mask[:, :, 5, 7] = 1
    density = (10.0 ** rng.uniform(-5, 1, mask.shape)).astype(np.float32)
    density[:, :, :8, :8] *= rng.choice([1, 1000])
    planes = torch.from_numpy(mask), torch.from_numpy(density)
    before = latent_weights(planes[0], (4, 3), mode, dilation=dilation)
    after = latent_weights(planes[0], (4, 3), mode, dilation=dilation, density=planes[1])
    for row in range(2):
        expected = by_hand(before[row, 0].double().numpy(), mask[row, 0], density[row, 0].astype(np.float64))
        np.testing.assert_allclose(after[row, 0].numpy(), expected, rtol=2e-5)
    torch.testing.assert_close(after.sum(dim=(1, 2, 3)), before.sum(dim=(1, 2, 3)))
    assert torch.equal(after > 0, before > 0)


def test_of_area_weights_a_cell_has_the_surface_that_lands_in_it() -> None:
    rng = np.random.default_rng(0)
    mask = torch.from_numpy((rng.random((1, 1, 32, 32)) < 0.7).astype(np.float32))
    density = torch.from_numpy(rng.exponential(size=mask.shape)).float()
    after = weigh_by_density(downsample(mask, (4, 4), "area"), mask, density)
    surface = (mask * density).reshape(4, 8, 4, 8).sum(dim=(1, 3))
    torch.testing.assert_close(after[0, 0] / after.sum(), surface / surface.sum())


def test_one_texel_with_most_of_the_surface_does_not_outweigh_the_rest() -> None:
    mask = torch.ones(1, 1, 32, 32)
    density = torch.ones(1, 1, 32, 32)
    density[..., 3, 3] = 1e6
    weights = weigh_by_density(downsample(mask, (4, 4)), mask, density)
    assert weights.max() / weights.min() == pytest.approx(16)


def test_even_density_changes_nothing_and_units_do_not_matter() -> None:
    mask = (torch.rand(1, 1, 32, 32, generator=torch.manual_seed(0)) < 0.5).float()
    density = torch.rand(1, 1, 32, 32, generator=torch.manual_seed(1))
    plain = latent_weights(mask, (4, 4), "area", 0.25)
    torch.testing.assert_close(latent_weights(mask, (4, 4), "area", 0.25, density=torch.full_like(mask, 7)), plain)
    torch.testing.assert_close(
        latent_weights(mask, (4, 4), "area", density=density), latent_weights(mask, (4, 4), "area", density=density * 9)
    )


def test_what_lies_outside_the_mask_keeps_its_weight() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16, :] = 1
    density = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    weights = latent_weights(mask, (4, 4), "nearest", 0.25, density=density)
    assert torch.equal(weights[..., 2:, :], torch.full((1, 1, 2, 4), 0.25))
    assert weights[..., :2, :].sum() == pytest.approx(8.0)


def test_an_empty_mask_and_one_without_surface_stay_as_they_are() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[1] = 1
    weights = weigh_by_density(downsample(mask, (2, 2)), mask, torch.zeros_like(mask))
    assert torch.equal(weights, downsample(mask, (2, 2)))
