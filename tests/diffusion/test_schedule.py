import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr as diffusers_rescale

from texdiff.diffusion.schedule import rescale_zero_terminal_snr, snr, snr_weights

SCHEDULES = [("scaled_linear", 0.00085, 0.012), ("linear", 1e-4, 0.02), ("squaredcos_cap_v2", 1e-4, 0.02)]


def schedule(kind, start, end):
    return DDPMScheduler(beta_start=start, beta_end=end, beta_schedule=kind)


@pytest.mark.parametrize("parameters", SCHEDULES, ids=[s[0] for s in SCHEDULES])
def test_the_zero_terminal_schedule_is_diffusers(parameters):
    scheduler = schedule(*parameters)
    ours = rescale_zero_terminal_snr(scheduler.alphas_cumprod)
    theirs = torch.cumprod(1 - diffusers_rescale(scheduler.betas.double()), dim=0)
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=1e-7)
    assert ours[-1] == 0
    assert ours.dtype == scheduler.alphas_cumprod.dtype
    torch.testing.assert_close(ours[0], scheduler.alphas_cumprod[0], rtol=1e-6, atol=0)
    assert (ours.diff() < 0).all()


def test_rescaling_twice_is_rescaling_once():
    once = rescale_zero_terminal_snr(schedule(*SCHEDULES[0]).alphas_cumprod)
    torch.testing.assert_close(rescale_zero_terminal_snr(once), once, rtol=1e-6, atol=1e-9)


def test_the_signal_ends_at_zero_and_weights_stay_finite():
    alphas = rescale_zero_terminal_snr(schedule(*SCHEDULES[0]).alphas_cumprod)
    timesteps = torch.tensor([0, 500, 999])
    ratios = snr(timesteps, alphas)
    assert ratios[-1] == 0
    np.testing.assert_allclose(ratios[0].item(), 0.99915 / 0.00085, rtol=1e-3)
    # The closed forms of the min-SNR paper at SNR = 0: 1 for an ε target, 0 for z, 0/(0 + 1) for v.
    last = {
        kind: snr_weights(kind, timesteps, alphas, 5.0)[-1].item() for kind in ("epsilon", "sample", "v_prediction")
    }
    assert last == {"epsilon": 1, "sample": 0, "v_prediction": 0}
