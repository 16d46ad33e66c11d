import time

import numpy as np
import pytest
import torch
from scipy import stats

from texdiff.diffusion.draws import draw, draw_timesteps, seed_layers
from texdiff.diffusion.order import sample_keys

SHAPE = (4, 8, 8)


def test_a_sample_draws_the_same_in_any_company():
    keys = sample_keys(7, 0, 12, 5)
    extras = {"offset": 0.1, "input_perturbation": 0.2}
    together = draw(7, keys, SHAPE, draw_timesteps(7, keys, 1000), **extras)
    torch.randn(100)  # global generators have no part in it
    for row, key in enumerate(keys):
        alone = draw(7, [key], SHAPE, draw_timesteps(7, [key], 1000), **extras)
        for name in ("posterior", "noise", "perturbation", "timesteps", "caption"):
            assert torch.equal(getattr(together, name)[row], getattr(alone, name)[0])


def test_draws_differ_by_seed_epoch_sample_and_purpose():
    which = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 10, 1)]
    drawn = [draw(s, [(e, i)], SHAPE, torch.tensor([5]), input_perturbation=1.0) for s, e, i in which]
    tensors = [t for d in drawn for t in (d.noise, d.posterior, d.perturbation)]
    assert len({tuple(t.flatten().tolist()) for t in tensors}) == len(tensors)


def test_draws_have_the_distributions_they_should():
    keys = sample_keys(3, 0, 2000, 50)
    draws = draw(3, keys, (1, 4, 4), draw_timesteps(3, keys, 1000), input_perturbation=1.0)
    for normal in (draws.noise, draws.posterior, draws.perturbation):
        assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest((draws.timesteps.numpy() + 0.5) / 1000, "uniform").pvalue > 1e-3
    assert stats.kstest(draws.caption.flatten().numpy(), "uniform").pvalue > 1e-3
    correlation = np.corrcoef(draws.noise.reshape(2000, -1).numpy().T)
    assert np.abs(correlation - np.eye(16)).max() < 0.12


def test_offset_noise_is_common_to_a_channel():
    keys = [(0, i) for i in range(400)]
    plain, offset = (draw(0, keys, SHAPE, draw_timesteps(0, keys, 1000), offset=o).noise for o in (0.0, 0.5))
    common = offset - plain
    torch.testing.assert_close(common, common[..., :1, :1].expand_as(common), rtol=0, atol=1e-5)
    assert common[..., 0, 0].std().item() == pytest.approx(0.5, rel=0.1)


def test_each_epoch_is_a_permutation_and_the_stream_can_be_cut_anywhere():
    whole = sample_keys(1, 0, 35, 10)
    for epoch in range(3):
        assert sorted(i for e, i in whole if e == epoch) == list(range(10))
    assert [i for _, i in whole[:10]] != [i for _, i in whole[10:20]]
    assert sample_keys(1, 0, 7, 10) + sample_keys(1, 7, 28, 10) == whole
    assert sample_keys(2, 0, 35, 10) != whole


def test_dropout_is_keyed_by_the_samples():
    ones = torch.ones(100)
    keys = [(0, 3), (0, 4)]
    masks = []
    for samples in (keys, keys, keys[:1]):
        torch.rand(5)
        seed_layers(0, samples)
        masks.append(torch.dropout(ones, 0.5, train=True))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_input_perturbation_is_in_what_the_model_sees_and_not_in_the_target():
    keys = [(0, i) for i in range(400)]
    steps = draw_timesteps(0, keys, 1000)
    plain, perturbed = (draw(0, keys, SHAPE, steps, input_perturbation=p) for p in (0.0, 0.1))
    assert plain.perturbation is None
    assert plain.added is plain.noise
    assert torch.equal(plain.noise, perturbed.noise)
    extra = (perturbed.added - perturbed.noise) / 0.1
    assert stats.kstest(extra.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(extra.flatten(), perturbed.noise.flatten())[0, 1]) < 0.02


def test_stratified_timesteps_take_one_from_each_part_of_the_range():
    for step, size in enumerate((1, 3, 8, 64)):
        keys = sample_keys(5, step * size, size, 40)
        timesteps = draw_timesteps(5, keys, 1000, "stratified", step)
        parts = (timesteps.double() + 0.5) * size / 1000
        assert sorted(parts.long().tolist()) == list(range(size))
        assert torch.equal(timesteps, draw_timesteps(5, keys, 1000, "stratified", step))
    with pytest.raises(ValueError, match="sobol"):
        draw_timesteps(5, keys, 1000, "sobol")


@pytest.mark.parametrize("size", [3, 8])
def test_each_sample_of_a_stratified_batch_is_uniform_over_all_timesteps(size):
    # Over many steps, also for one place in the batch, and for one sample that is visited again and again.
    drawn = torch.stack(
        [draw_timesteps(1, sample_keys(1, s * size, size, size), 1000, "stratified", s) for s in range(1500)]
    )
    for column in (drawn[:, 0], drawn[:, -1], drawn.flatten()):
        assert stats.kstest((column.numpy() + 0.5) / 1000, "uniform").pvalue > 1e-3
    counts = np.bincount(drawn.flatten().numpy(), minlength=1000)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_drawing_costs_next_to_nothing_of_a_step():
    # A step of Stable Diffusion 1.5 on a CPU takes some 16 s of processor time a sample; 1 % of that is 160 ms.
    def cost(step):
        before = time.process_time()
        keys = sample_keys(0, step, 1, 5000)
        draw(0, keys, (4, 64, 64), draw_timesteps(0, keys, 1000, "stratified", step), 0.1, 0.1)
        return time.process_time() - before

    assert sorted(cost(step) for step in range(21))[10] < 0.02
