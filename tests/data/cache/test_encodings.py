"""Latent cells of a texture: covered shares and sums, against counting texel by texel."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from texdiff.data.cache.encodings import SUMS, Cells, covered_share

masks = hnp.arrays(np.bool_, (32, 32), elements=st.booleans(), fill=st.booleans())


@settings(max_examples=40, deadline=None)
@given(mask=masks)
def test_the_covered_share_is_counted_by_cell(mask):
    share = covered_share(np.packbits(mask, axis=1), 4)
    assert share.shape == (1, 4, 4)
    assert share.dtype == np.float32
    for y, x in np.ndindex(4, 4):
        assert share[0, y, x] == mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].sum() / 64


@settings(max_examples=40, deadline=None)
@given(mask=masks, weights=hnp.arrays(np.float32, (1, 4, 4), elements=st.sampled_from([0.0, 0.25, 1.0, 2.0])))
def test_sums_say_what_counts_what_is_dropped_and_what_is_void(mask, weights):
    packed = np.packbits(mask, axis=1)
    cells = Cells(weights, np.float32(0.5) - weights / 4, covered_share(packed, 4))
    sums = dict(zip(SUMS, cells.sums(packed).tolist(), strict=True))
    expected = dict.fromkeys(SUMS, 0.0)
    for y, x in np.ndindex(4, 4):
        texels = mask[8 * y : 8 * y + 8, 8 * x : 8 * x + 8].sum()
        weight = float(weights[0, y, x])
        expected["target"] += weight
        expected["outside"] += 0.5 - weight / 4
        expected["covered"] += texels / 64
        expected["dropped"] += 0 if weight else texels / 64
        expected["void"] += weight * (64 - texels) / 64
    np.testing.assert_allclose(list(sums.values()), list(expected.values()), rtol=1e-6, atol=1e-6)
