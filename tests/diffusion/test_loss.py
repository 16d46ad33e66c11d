import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from texdiff.diffusion.loss import masked_error, masked_mse, region_errors, sample_weights

finite = st.floats(-10, 10, width=32)


@st.composite
def batches(draw):
    """prediction, target [B, C, h, w] and mask [B, 1, h, w] in [0, 1], with something covered in every sample."""
    b, c, h, w = (draw(st.integers(1, most)) for most in (4, 4, 7, 7))
    prediction, target = (draw(hnp.arrays(np.float32, (b, c, h, w), elements=finite)) for _ in range(2))
    mask = draw(hnp.arrays(np.float32, (b, 1, h, w), elements=st.sampled_from([0.0, 0.0, 0.25, 1.0])))
    mask[:, :, draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))] = 1.0
    return prediction, target, mask


def oracle(prediction, target, mask, reduction):
    """The loss and its gradient in float64, texel by texel."""
    p, t, m = (a.astype(np.float64) for a in (prediction, target, mask))
    b, c, h, w = p.shape
    errors, texels, gradient = np.zeros(b), np.zeros(b), np.zeros_like(p)
    for i in range(b):
        for y in range(h):
            for x in range(w):
                texels[i] += m[i, 0, y, x]
                errors[i] += m[i, 0, y, x] * np.mean((p[i, :, y, x] - t[i, :, y, x]) ** 2)
                gradient[i, :, y, x] = m[i, 0, y, x] * 2 * (p[i, :, y, x] - t[i, :, y, x]) / c
    scale = np.full(b, 1 / texels.sum()) if reduction == "texel" else 1 / (texels * b)
    return (errors * scale).sum(), gradient * scale[:, None, None, None]


@pytest.mark.parametrize("reduction", ["texel", "sample"])
@settings(max_examples=60, deadline=None)
@given(batch=batches())
def test_loss_and_gradient_are_the_formulas(batch, reduction):
    prediction = torch.tensor(batch[0], requires_grad=True)
    loss = masked_mse(prediction, torch.tensor(batch[1]), torch.tensor(batch[2]), reduction)
    loss.backward()
    expected, gradient = oracle(*batch, reduction)
    np.testing.assert_allclose(loss.item(), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(prediction.grad.numpy(), gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("reduction", ["texel", "sample"])
def test_all_ones_mask_is_mse(reduction):
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(3, 4, 16, 16, generator=generator) for _ in range(2))
    loss = masked_mse(prediction, target, torch.ones(3, 1, 16, 16), reduction)
    torch.testing.assert_close(loss, F.mse_loss(prediction, target), rtol=1e-6, atol=0)


@pytest.mark.parametrize("reduction", ["texel", "sample"])
@pytest.mark.parametrize("poison", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_outside_the_mask_matters(reduction, poison, dtype):
    generator = torch.Generator().manual_seed(1)
    prediction, target = (torch.randn(2, 4, 8, 8, generator=generator).to(dtype) for _ in range(2))
    mask = (torch.rand(2, 1, 8, 8, generator=generator) > 0.5).float()
    clean = masked_mse(prediction, target, mask, reduction)
    outside = (mask == 0).expand_as(prediction)
    prediction[outside], target[outside] = poison, -poison
    prediction.requires_grad_(True)
    loss = masked_mse(prediction, target, mask, reduction)
    loss.backward()
    assert loss == clean
    assert (prediction.grad[outside] == 0).all()
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[~outside] != 0).any()


def test_parts_of_an_effective_batch_add_up():
    generator = torch.Generator().manual_seed(2)
    prediction, target = (torch.randn(6, 4, 8, 8, generator=generator) for _ in range(2))
    share = torch.tensor([0.02, 0.9, 0.5, 0.1, 1.0, 0.3]).view(6, 1, 1, 1)
    mask = (torch.rand(6, 1, 8, 8, generator=generator) < share).float()
    mask[:, :, 0, 0] = 1
    for reduction in ("texel", "sample"):
        weights = sample_weights(mask.sum(dim=(1, 2, 3)), reduction)
        parts = [
            (weights[s] * masked_error(prediction[s], target[s], mask[s])).sum()
            for s in (slice(0, 1), slice(1, 4), slice(4, 6))
        ]
        torch.testing.assert_close(sum(parts), masked_mse(prediction, target, mask, reduction))


def test_texel_and_sample_differ_where_coverage_does():
    prediction, target = torch.ones(2, 4, 2, 2), torch.zeros(2, 4, 2, 2)
    prediction[1] = 3  # squared error 1 in the first sample, 9 in the second
    mask = torch.ones(2, 1, 2, 2)
    mask[1, :, 0, :] = 0  # 4 texels and 2 texels
    assert masked_mse(prediction, target, mask, "texel").item() == pytest.approx((4 * 1 + 2 * 9) / 6)
    assert masked_mse(prediction, target, mask, "sample").item() == pytest.approx((1 + 9) / 2)


def test_what_cannot_be_averaged_is_refused():
    with pytest.raises(ValueError, match="no texel"):
        sample_weights(torch.zeros(3), "texel")
    with pytest.raises(ValueError, match="no texel"):
        sample_weights(torch.tensor([4.0, 0.0]), "sample")
    with pytest.raises(ValueError, match="neither"):
        sample_weights(torch.ones(3), "mean")


@settings(max_examples=40, deadline=None)
@given(batch=batches(), seed=st.integers(0, 99))
def test_errors_by_region_are_texel_by_texel_means(batch, seed):
    prediction, target, covered = batch
    expected = np.zeros((2, 3))
    for i, y, x in np.ndindex(covered.shape[0], *covered.shape[2:]):
        share = covered[i, 0, y, x]
        region = 0 if share == 1 else 2 if share == 0 else 1
        squares = (prediction[i, :, y, x].astype(np.float64) - target[i, :, y, x]) ** 2
        expected[:, region] += squares.mean(), 1
    got = region_errors(*map(torch.tensor, batch))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)
    cut = np.random.default_rng(seed).integers(0, len(covered) + 1)
    parts = [region_errors(*(torch.tensor(a[s]) for a in batch)) for s in (slice(cut), slice(cut, None))]
    np.testing.assert_allclose(sum(parts).numpy(), got.numpy(), rtol=1e-5, atol=1e-6)


def test_junk_in_one_region_stays_there():
    prediction, covered = torch.zeros(1, 4, 1, 3), torch.tensor([[[[1.0, 0.5, 0.0]]]])
    prediction[..., 2] = float("nan")
    sums, cells = region_errors(prediction, torch.ones(1, 4, 1, 3), covered)
    assert sums[:2].tolist() == [1, 1]
    assert sums[2].isnan()
    assert cells.tolist() == [1, 1, 1]


def test_the_gradient_of_the_weighted_loss_is_the_formula():
    # With loss weights w_b (min-SNR and the like), in float64 numpy.
    generator = torch.Generator().manual_seed(4)
    prediction, target = (torch.randn(5, 4, 6, 6, generator=generator) for _ in range(2))
    mask = (
        torch.rand(5, 1, 6, 6, generator=generator) < torch.tensor([0.1, 1, 0.5, 0.3, 0.9]).view(5, 1, 1, 1)
    ).float()
    mask[:, :, 0, 0] = 1
    extra = torch.rand(5, generator=generator) + 0.1
    for reduction in ("texel", "sample"):
        leaf = prediction.clone().requires_grad_(True)
        loss = (sample_weights(mask.sum(dim=(1, 2, 3)), reduction) * extra * masked_error(leaf, target, mask)).sum()
        loss.backward()
        _, plain = oracle(prediction.numpy(), target.numpy(), mask.numpy(), reduction)
        np.testing.assert_allclose(leaf.grad.numpy(), plain * extra.double().numpy()[:, None, None, None], rtol=1e-5)
