import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddpm import rescale_zero_terminal_snr as diffusers_rescale

from texdiff.diffusion.process import DDPM, rescale_zero_terminal_snr

SD = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
ZERO_TERMINAL = DDPMScheduler.from_config(SD.config, rescale_betas_zero_snr=True)
SCHEDULES = [("scaled_linear", 0.00085, 0.012), ("linear", 1e-4, 0.02), ("squaredcos_cap_v2", 1e-4, 0.02)]
SHAPE = (4, 8, 8)
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def schedule(kind, start, end):
    return DDPMScheduler(beta_start=start, beta_end=end, beta_schedule=kind)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(6, *SHAPE, generator=generator) for _ in range(2))
    return latents, noise, torch.tensor([0, 1, 250, 500, 998, 999])


@pytest.mark.parametrize("scheduler", [SD, ZERO_TERMINAL], ids=["sd", "zero-terminal"])
def test_noising_and_velocity_are_diffusers(batch, scheduler):
    latents, noise, t = batch
    epsilon, velocity, sample = (DDPM(scheduler.alphas_cumprod, kind) for kind in PREDICTIONS)
    torch.testing.assert_close(
        epsilon.add_noise(latents, noise, t), scheduler.add_noise(latents, noise, t), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(
        velocity.target(latents, noise, t), scheduler.get_velocity(latents, noise, t), rtol=0, atol=1e-6
    )
    assert epsilon.target(latents, noise, t) is noise
    assert sample.target(latents, noise, t) is latents


def test_another_prediction_type_is_refused():
    with pytest.raises(ValueError, match="flow"):
        DDPM(SD.alphas_cumprod, "flow")


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weighs_every_target_alike(prediction_type, gamma):
    # However the target is written, the weighted loss is min(SNR, γ) times the error of z that it implies.
    t = torch.arange(0, 1000, 37)
    alpha = SD.alphas_cumprod.double()[t]
    error_of_z = {
        "sample": torch.ones_like(alpha),
        "epsilon": (1 - alpha) / alpha,  # z = (z_t − √(1−ᾱ) ε) / √ᾱ
        "v_prediction": 1 - alpha,  # z = √ᾱ z_t − √(1−ᾱ) v
    }[prediction_type]
    clipped = torch.minimum(alpha / (1 - alpha), torch.tensor(gamma))
    process = DDPM(SD.alphas_cumprod, prediction_type)
    torch.testing.assert_close(process.weights(t, gamma).double(), clipped * error_of_z, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(process.clean_weights(t, gamma).double(), clipped, rtol=1e-5, atol=1e-9)
    assert torch.equal(process.weights(t, None), torch.ones(len(t)))


@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("scheduler", [SD, ZERO_TERMINAL], ids=["sd", "zero-terminal"])
def test_the_latents_that_a_prediction_implies_are_diffusers(batch, prediction_type, scheduler):
    latents, noise, t = batch
    process = DDPM(scheduler.alphas_cumprod, prediction_type)
    noisy, target = process.add_noise(latents, noise, t), process.target(latents, noise, t)
    known = t if prediction_type != "epsilon" else t[scheduler.alphas_cumprod[t] > 1e-3]
    assert len(known) >= 4
    back = process.clean(target, noisy, t)
    torch.testing.assert_close(back[: len(known)], latents[: len(known)], rtol=0, atol=2e-4)
    assert back.isfinite().all()
    scheduler = DDPMScheduler.from_config(scheduler.config, prediction_type=prediction_type)
    for row, step in enumerate(known.tolist()):
        prediction = noise[row : row + 1] * 0.3
        theirs = scheduler.step(prediction, step, noisy[row : row + 1]).pred_original_sample
        ours = process.clean(prediction, noisy[row : row + 1], known[row : row + 1])
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_the_grid_is_the_middle_of_equal_parts():
    assert DDPM(SD.alphas_cumprod, "epsilon").grid(8).tolist() == [62, 187, 312, 437, 562, 687, 812, 937]


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
    t = torch.tensor([0, 500, 999])
    ratios = DDPM(alphas, "epsilon").snr(t)
    assert ratios[-1] == 0
    np.testing.assert_allclose(ratios[0].item(), 0.99915 / 0.00085, rtol=1e-3)
    # The closed forms of the min-SNR paper at SNR = 0: 1 for an ε target, 0 for z, 0/(0 + 1) for v.
    last = {kind: DDPM(alphas, kind).weights(t, 5.0)[-1].item() for kind in PREDICTIONS}
    assert last == {"epsilon": 1, "sample": 0, "v_prediction": 0}
    assert DDPM(alphas, "epsilon").clean_weights(t, 5.0)[-1] == 0
