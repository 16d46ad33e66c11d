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
