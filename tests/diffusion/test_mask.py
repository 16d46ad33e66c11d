import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mask_oracles import OF_A_CELL

from texdiff.diffusion.mask import cell_weights, dilate, downsample, latent_mask


@pytest.mark.parametrize("mode", OF_A_CELL)
@settings(max_examples=40, deadline=None)
@given(
    mask=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=3).map(lambda s: (8 * s[0], 8 * s[1])),
        elements=st.sampled_from([0.0, 1.0]),
    )
)
def test_every_mode_against_its_definition(mask, mode):
    height, width = mask.shape
    small = downsample(torch.tensor(mask)[None, None], (height // 8, width // 8), mode)
    assert small.shape == (1, 1, height // 8, width // 8)
    for y in range(height // 8):
        for x in range(width // 8):
            cell = mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            assert small[0, 0, y, x].item() == pytest.approx(OF_A_CELL[mode](cell))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="bilinear"):
        downsample(torch.ones(1, 1, 8, 8), (1, 1), "bilinear")


def test_unmasked_weight_fills_the_rest():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8, :8] = 1
    expected = torch.tensor([[[[1.0, 0.2], [0.2, 0.2]]]])
    torch.testing.assert_close(sum(cell_weights(mask, (2, 2), "nearest", 0.2)[:2]), expected)
    assert torch.equal(sum(cell_weights(mask, (2, 2), "area", 1.0)[:2]), torch.ones(1, 1, 2, 2))


@settings(max_examples=40, deadline=None)
@given(
    mask=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=7),
        elements=st.sampled_from([0.0, 0.0, 0.5, 1.0]),
    ),
    cells=st.integers(-3, 3),
)
def test_dilation_takes_the_largest_or_smallest_neighbour(mask, cells):
    height, width = mask.shape
    expected, reach = np.empty_like(mask), abs(cells)
    for y in range(height):
        for x in range(width):
            near = mask[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
            expected[y, x] = near.max() if cells >= 0 else near.min()
    assert np.array_equal(dilate(torch.tensor(mask)[None, None], cells)[0, 0].numpy(), expected)


def test_erosion_is_the_dilation_of_what_is_left_out():
    mask = (torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.6).float()
    for cells in (1, 2):
        assert torch.equal(dilate(mask, -cells), 1 - dilate(1 - mask, cells))


def test_dilation_is_by_latent_cells_and_comes_before_the_unmasked_weight():
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:16, 8:16] = 1
    grown = torch.zeros(1, 1, 4, 4)
    grown[..., :3, :3] = 1
    assert torch.equal(latent_mask(mask, (4, 4), "nearest", 1), grown)
    assert latent_mask(mask, (4, 4), "nearest", -1).sum() == 0
    torch.testing.assert_close(sum(cell_weights(mask, (4, 4), "nearest", 0.5, 1)[:2]), 0.5 + 0.5 * grown)


def weighed_by_hand(mask: np.ndarray, density: np.ndarray, mode: str, dilation: int) -> np.ndarray:
    """What each cell of 8 x 8 texels counts, in float64, cell by cell."""
    cells = [(y, x) for y in range(len(mask) // 8) for x in range(mask.shape[1] // 8)]
    own = {(y, x): np.s_[8 * y : 8 * y + 8, 8 * x : 8 * x + 8] for y, x in cells}
    small = {cell: OF_A_CELL[mode](mask[own[cell]]) for cell in cells}
    counted, means = {}, {}
    for y, x in cells:
        near = [small[other] for other in cells if max(abs(other[0] - y), abs(other[1] - x)) <= abs(dilation)]
        counted[y, x] = max(near) if dilation >= 0 else min(near)
        weights = mask[own[y, x]]
        weights, surface = (weights, density[own[y, x]]) if weights.any() else (mask, density)
        means[y, x] = (weights * surface).sum() / weights.sum()
    inside = sorted(means[cell] for cell in cells if counted[cell] > 0)
    if not inside:
        return np.zeros((len(mask) // 8, mask.shape[1] // 8))
    middle = inside[(len(inside) - 1) // 2]
    most = 16 * middle if middle > 0 else np.inf
    weighed = np.array([counted[cell] * min(means[cell], most) for cell in cells])
    total = sum(counted.values())
    weighed = weighed * total / weighed.sum() if weighed.sum() > 0 else np.array([counted[cell] for cell in cells])
    return weighed.reshape(len(mask) // 8, -1)


@pytest.mark.parametrize("mode", OF_A_CELL)
@pytest.mark.parametrize("dilation", [-1, 0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_grey_masks_by_surface_and_dilation_equal_a_count_cell_by_cell(mode: str, dilation: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice([0.0, 0.25, 0.6, 1.0], (32, 40)) * np.kron(rng.random((4, 5)) < 0.7, np.ones((8, 8)))
    density = rng.random((32, 40)) * np.kron(10.0 ** rng.integers(-2, 3, (4, 5)), np.ones((8, 8)))
    found = cell_weights(
        *(torch.tensor(mask, dtype=torch.float32)[None, None], (4, 5), mode, 0.3, dilation),
        torch.tensor(density, dtype=torch.float32)[None, None],
    )
    np.testing.assert_allclose(found.target[0, 0].numpy(), weighed_by_hand(mask, density, mode, dilation), rtol=2e-5)
    flat = weighed_by_hand(mask, np.ones_like(density), mode, dilation)
    np.testing.assert_allclose(found.outside[0, 0].numpy(), 0.3 * (1 - flat), rtol=2e-5, atol=1e-7)
