"""The parts of the objective on the embedded base: weights, the base's own prediction, pixels, the loss's guard."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel

from texdiff.config import DataConfig, LoraConfig, MaskConfig, ModelConfig, NoiseConfig, OptimConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.models.base import load_base
from texdiff.models.family import Conditioning
from texdiff.models.stable_diffusion import StableDiffusion, zero_snr_sampler
from texdiff.models.trainable import LoraDenoiser
from texdiff.training.ema import Ema
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
    textures = SimpleNamespace(texels=torch.tensor([3.0, 40.0, 7.5]), pixels=torch.tensor([100.0, 2500.0, 480.0]))
    indices, timesteps = [2, 0, 0, 1], torch.tensor([0, 300, 999, 650])
    latent, pixel = objective_of(setting, base).weights(textures, indices, timesteps).double().numpy()

    alpha = base.scheduler.alphas_cumprod.double().numpy()[timesteps.numpy()]
    snr = alpha / (1 - alpha)
    for got, totals, extra in (
        (latent, np.array([7.5, 3, 3, 40]), np.minimum(snr, 5) / snr),
        (pixel, np.array([480.0, 100, 100, 2500]), 0.25 * np.minimum(snr, 1)),
    ):
        share = np.full(4, 1 / totals.sum()) if reduction == "texel" else 1 / (4 * totals)
        np.testing.assert_allclose(got, share * extra, rtol=1e-5)


def test_a_zero_terminal_schedule_needs_a_base_that_predicts_v(base):
    with pytest.raises(InputError, match=r"noise.rescale_betas_zero_snr: .* predicts epsilon"):
        StableDiffusion(base, rescale_betas_zero_snr=True)
    alphas = StableDiffusion(velocity(base), rescale_betas_zero_snr=True).process.alphas_cumprod
    theirs = DDPMScheduler.from_config(base.scheduler.config, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(alphas, theirs, rtol=2e-4, atol=1e-7)  # diffusers computes it in float32
    assert alphas[-1] == 0


def test_outside_base_model_needs_adapters():
    with pytest.raises(InputError, match=r"mask.outside base_model needs model.train lora"):
        configured(mask=MaskConfig(outside="base_model"), model=ModelConfig(train="full"))
    assert MaskConfig(outside="base_model").outside_weight == 1
    assert MaskConfig().outside_weight == 0
    assert MaskConfig(outside="base_model", unmasked_weight=0.25).outside_weight == 0.25


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own, of NumPy 2
def test_the_samplers_of_a_zero_terminal_base_start_from_noise_alone():
    from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

    plain = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    for kind in (PNDMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, DDPMScheduler):
        sampler = zero_snr_sampler(kind(**plain, prediction_type="v_prediction"))
        assert sampler.config.rescale_betas_zero_snr
        assert sampler.config.prediction_type == "v_prediction"
        sampler.set_timesteps(10)
        assert sampler.timesteps[0] == 999
        assert sampler.alphas_cumprod[-1] < 1e-6


@pytest.fixture(scope="module")
def trained(base):
    """A denoiser with adapters that do something, and an input for it."""
    trainable = LoraDenoiser(StableDiffusion(load_base("nano")), LoraConfig(rank=2), 0, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in trainable.trained().items():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 77, base.unet.config.cross_attention_dim, generator=generator)
    return trainable, noisy, torch.tensor([10, 700]), Conditioning(prompt={"text": text})


def test_the_base_prediction_is_that_of_the_base_and_leaves_the_adapters_as_they_were(base, trained):
    trainable, noisy, t, conditioning = trained
    before = trainable(noisy, t, conditioning)
    gradients = {name: p.requires_grad for name, p in trainable.named_parameters()}
    own = trainable.frozen_prediction(noisy, t, conditioning)
    assert torch.equal(own, base.unet(noisy, t, conditioning.prompt["text"]).sample)
    assert not own.requires_grad
    assert (own - before).abs().max() > 1e-3
    assert torch.equal(trainable(noisy, t, conditioning), before)
    assert gradients == {name: p.requires_grad for name, p in trainable.named_parameters()}
    assert any(gradients.values())


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


def test_the_average_is_the_closed_form_and_comes_back_from_its_state():
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
    values = [1.0, -2.0, 5.0, 0.5, 3.0]
    ema, expected = Ema(parameters, 0.35), 0.0
    for number, value in enumerate(values, start=1):
        for parameter in parameters:
            parameter.data.fill_(value)
        ema.step()
        decay = min((1 + number - 1) / (10 + number - 1), 0.35) if number > 1 else 0.0
        expected = decay * expected + (1 - decay) * value
        if number == 3:
            state = copy.deepcopy(ema.state_dict())
    with ema.averaged():
        assert all(torch.allclose(p, torch.tensor(expected)) for p in parameters)
    assert all((p == values[-1]).all() for p in parameters)

    again = Ema(parameters, 0.35)
    again.load_state_dict(state)
    for value in values[3:]:
        for parameter in parameters:
            parameter.data.fill_(value)
        again.step()
    for one, other in zip(again.model.shadow_params, ema.model.shadow_params, strict=True):
        assert torch.equal(one, other)
    assert isinstance(ema.model, EMAModel)


def test_without_an_average_nothing_happens():
    parameter = torch.nn.Parameter(torch.ones(3))
    ema = Ema([parameter], None)
    ema.step()
    ema.load_state_dict(ema.state_dict())
    with ema.averaged():
        assert (parameter == 1).all()
    assert not OptimConfig().use_ema


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
