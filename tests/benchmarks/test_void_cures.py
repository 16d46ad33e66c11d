"""The void given anew while sampling: what is filled in, what is left alone, and how noisy it is."""

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from benchmarks.void_cures.runs import GivenAnew, fill_latents

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_the_void_is_filled_from_the_covered_cells_alone() -> None:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    covered = torch.zeros(2, 1, 16, 16)
    covered[0, :, :8], covered[1, :, 3, 5] = 0.2, 1.0
    filled = fill_latents(latents, covered)
    known = (covered > 0).expand_as(latents)
    assert torch.equal(filled[known], latents[known])
    torch.testing.assert_close(filled[1], latents[1, :, 3, 5].view(4, 1, 1).expand(4, 16, 16))
    assert filled[0, :, 8:].abs().max() <= latents[0, :, :8].abs().max()
    other = torch.where(known, latents, 1e3)
    assert torch.equal(fill_latents(other, covered), filled)


def sampled(kind: type[DPMSolverMultistepScheduler], covered: torch.Tensor) -> torch.Tensor:
    """What a model makes whose prediction of the noise is always 0.3 of its input; noise at the last step but one."""
    scheduler = kind(euler_at_final=True)
    scheduler.covered = covered
    scheduler.set_timesteps(8)
    latents = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        (latents,) = scheduler.step(0.3 * latents, t, latents, return_dict=False)
    return latents


def test_where_all_is_covered_it_is_the_plain_sampler() -> None:
    ones = torch.ones(1, 1, 32, 32)
    assert torch.equal(sampled(GivenAnew, ones), sampled(DPMSolverMultistepScheduler, ones))


def test_in_the_end_the_void_holds_what_the_islands_fill_it_with() -> None:
    covered = torch.ones(1, 1, 32, 32)
    covered[..., 16:] = 0
    made = sampled(GivenAnew, covered)
    assert torch.equal(made[..., :16], sampled(DPMSolverMultistepScheduler, covered)[..., :16])
    torch.testing.assert_close(made, fill_latents(made, covered))


def test_between_the_steps_the_void_is_as_noisy_as_the_rest_should_be() -> None:
    covered = torch.ones(1, 1, 64, 64)
    covered[..., 32:] = 0
    scheduler = GivenAnew(euler_at_final=True)
    scheduler.covered = covered
    scheduler.set_timesteps(8)
    latents = torch.zeros(1, 4, 64, 64)  # and no noise in it: the estimate is 0 everywhere
    for t in scheduler.timesteps[:3]:
        (latents,) = scheduler.step(torch.zeros_like(latents), t, latents, return_dict=False)
        alpha = scheduler.alphas_cumprod[scheduler.timesteps[scheduler.step_index]]
        assert latents[..., 32:].std().item() == pytest.approx((1 - alpha).sqrt().item(), rel=0.05)
        assert not latents[..., :32].any()
