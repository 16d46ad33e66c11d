"""The parts of the objective on the bundled base: weights of samples, errors in pixels."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from texdiff.config import DataConfig, MaskConfig, ModelConfig, NoiseConfig, OptimConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.models.base import load_base
from texdiff.models.stable_diffusion import StableDiffusion
from texdiff.training.objective import Objective, Targets


@pytest.fixture(scope="module")
def base():
    return load_base("nano")


def configured(**sections) -> TrainingConfig:
    return TrainingConfig(data=DataConfig(dataset="somewhere"), **sections)


def velocity(base):
    """The base as if it predicted v."""
    other = copy.copy(base)
    other.__dict__["scheduler"] = DDPMScheduler.from_config(base.scheduler.config, prediction_type="v_prediction")
    return other


ON_CPU = SimpleNamespace(device=torch.device("cpu"), dtype=torch.float32)


def objective_of(setting, base):
    return Objective(setting, StableDiffusion(base), None, ON_CPU)


@pytest.mark.parametrize("reduction", ["texel", "sample"])
def test_weights_are_the_formulas(base, reduction):
    setting = configured(mask=MaskConfig(reduction=reduction, pixel_weight=0.25), noise=NoiseConfig(snr_gamma=5.0))
    mixture = SimpleNamespace(loss_weights=torch.tensor([1.0, 0.5, 1.0]))
    textures = SimpleNamespace(
        scales=1, texels=torch.tensor([3.0, 40.0, 7.5]), pixels=torch.tensor([100.0, 2500.0, 480.0]), mixture=mixture
    )
    indices, timesteps = [2, 0, 0, 1], torch.tensor([0, 300, 999, 650])
    latent, pixel = objective_of(setting, base).weights(textures, indices, timesteps).double().numpy()

    alpha = base.scheduler.alphas_cumprod.double().numpy()[timesteps.numpy()]
    snr = alpha / (1 - alpha)
    for got, totals, extra in (
        (latent, np.array([7.5, 3, 3, 40]), np.minimum(snr, 5) / snr),
        (pixel, np.array([480.0, 100, 100, 2500]), 0.25 * np.minimum(snr, 1)),
    ):
        share = np.full(4, 1 / totals.sum()) if reduction == "texel" else 1 / (4 * totals)
        np.testing.assert_allclose(got, share * extra * [1, 1, 1, 0.5], rtol=1e-5)


def test_outside_base_model_needs_adapters():
    with pytest.raises(InputError, match=r"mask.outside base_model needs model.train lora or controlnet"):
        configured(mask=MaskConfig(outside="base_model"), model=ModelConfig(train="full"))
    assert MaskConfig(outside="base_model").outside_weight == 1
    assert MaskConfig().outside_weight == 0
    assert MaskConfig(outside="base_model", unmasked_weight=0.25).outside_weight == 0.25


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_error_in_pixels_is_that_of_decoded_pictures(base, prediction_type):
    with_target = base if prediction_type == "epsilon" else velocity(base)
    setting = configured(mask=MaskConfig(pixel_weight=1.0))
    objective, scale = objective_of(setting, with_target), base.vae.config.scaling_factor

    def error(prediction, noisy, latents, t, texels):
        batch = SimpleNamespace(t=t, textures=SimpleNamespace(texels=texels))
        return objective.pixel_errors(prediction, Targets(inside=None, outside=None, clean=latents, noisy=noisy), batch)

    generator = torch.Generator().manual_seed(0)
    latents, noise, prediction = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(3))
    timesteps = torch.tensor([50, 600])
    noisy = with_target.scheduler.add_noise(latents, noise, timesteps)
    texels = torch.rand(2, 1, 64, 64, generator=generator) < torch.tensor([0.2, 0.9]).view(2, 1, 1, 1)
    prediction.requires_grad_(True)
    got = error(prediction, noisy, latents, timesteps, texels)

    for row, t in enumerate(timesteps.tolist()):
        step = with_target.scheduler.step(prediction[row : row + 1], t, noisy[row : row + 1])
        with torch.no_grad():
            said, true = (
                base.vae.decode(z / scale).sample[0].double().numpy()
                for z in (step.pred_original_sample, latents[row : row + 1])
            )
        squares = ((said - true) ** 2).mean(axis=0)
        np.testing.assert_allclose(got[row].item(), squares[texels[row, 0].numpy()].sum(), rtol=1e-4)
    got.sum().backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad.abs().max() > 0
    assert not any(p.requires_grad for p in base.vae.parameters())
    right = error(
        {"epsilon": noise}.get(prediction_type, with_target.scheduler.get_velocity(latents, noise, timesteps)),
        *(noisy, latents, timesteps, texels),
    )
    assert (right < 1e-4 * got.detach()).all()  # the right prediction means the right picture


def test_settings_that_cannot_be_are_refused():
    for section, key in (
        ({"mask": MaskConfig(pixel_weight=-1.0)}, "mask.pixel_weight"),
        ({"mask": MaskConfig(unmasked_weight=1.5)}, "mask.unmasked_weight"),
        ({"noise": NoiseConfig(input_perturbation=-0.1)}, "noise.input_perturbation"),
        ({"optim": OptimConfig(ema_decay=1.0)}, "optim.ema_decay"),
    ):
        with pytest.raises(InputError, match=key):
            configured(**section)
    assert replace(MaskConfig(), dilation=-3).dilation == -3
