import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from texdiff.diffusion.mask import downsample, latent_weights

ORACLES = {
    "nearest": lambda cell: cell[0, 0],
    "nearest-exact": lambda cell: cell[4, 4],
    "area": np.mean,
    "any": np.max,
    "all": np.min,
}


@pytest.mark.parametrize("mode", ORACLES)
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
            assert small[0, 0, y, x].item() == pytest.approx(ORACLES[mode](cell))


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="bilinear"):
        downsample(torch.ones(1, 1, 8, 8), (1, 1), "bilinear")


def test_unmasked_weight_fills_the_rest():
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8, :8] = 1
    expected = torch.tensor([[[[1.0, 0.2], [0.2, 0.2]]]])
    torch.testing.assert_close(latent_weights(mask, (2, 2), "nearest", 0.2), expected)
    assert torch.equal(latent_weights(mask, (2, 2), "area", 1.0), torch.ones(1, 1, 2, 2))
