"""The family's methods, each against the parts that diffusers' own pipeline is made of."""

import copy
import shutil

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)

from texdiff.config import DataConfig, MaskConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.errors import InputError
from texdiff.models.base import Base
from texdiff.models.family import Conditioning, load_family
from texdiff.models.stable_diffusion import StableDiffusion, mean_latents, zero_snr_sampler


@pytest.fixture(scope="module")
def family():
    return load_family("nano")


@pytest.fixture(scope="module")
def pipeline(family):
    return StableDiffusionPipeline.from_pretrained(family.source, safety_checker=None)


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_latents_are_the_pipelines(family, pipeline, pixels):
    with torch.no_grad():
        posterior = pipeline.vae.encode(pixels).latent_dist
    mean, std = family.encode_images(pixels)
    assert torch.equal(mean, posterior.mean)
    assert torch.equal(std, posterior.std)
    assert mean.shape == (2, 4, 64 // family.latent_factor, 64 // family.latent_factor)
    assert family.latent_factor == pipeline.vae_scale_factor
    noise = torch.randn(mean.shape)
    scale = pipeline.vae.config.scaling_factor
    assert torch.equal(family.latents(mean, std, noise), scale * (mean + std * noise))
    assert torch.equal(family.latents(mean), scale * mean)
    assert torch.equal(mean_latents(pipeline.vae, pixels), mean * scale)
    torch.testing.assert_close(family.decode(scale * mean).detach(), pipeline.vae.decode(mean).sample.detach())


def test_the_decoder_has_gradients_for_its_input_alone(family):
    latents = torch.zeros(1, 4, 8, 8, requires_grad=True)
    family.load_decoder(torch.device("cpu"), gradient_checkpointing=False)
    family.decode(latents).sum().backward()
    assert latents.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in family.base.vae.parameters())


def test_prompts_and_predictions_are_the_pipelines(family, pipeline):
    prompts = ["a rusty crate", "word " * 200]
    embedded, _ = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    prompt = family.encode_prompts(prompts)
    torch.testing.assert_close(prompt["text"], embedded, rtol=1e-5, atol=1e-6)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 900])
    with torch.no_grad():
        predicted = family.predict(family.denoiser, noisy, t, Conditioning(prompt=prompt))
        torch.testing.assert_close(predicted, pipeline.unet(noisy, t, prompt["text"]).sample)


def test_conditioning_is_repeated_and_cut(family):
    one = Conditioning(prompt=family.encode_prompts(["a crate"])).expand(5)
    assert one.prompt["text"].shape[0] == 5
    assert torch.equal(one[1:3].prompt["text"], one.prompt["text"][:2])


def test_the_process_is_the_schedulers(family, pipeline):
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    assert torch.equal(family.process.alphas_cumprod, scheduler.alphas_cumprod)
    assert family.process.prediction_type == scheduler.config.prediction_type


def test_the_pipeline_is_built_around_the_given_denoiser(family):
    denoiser = copy.deepcopy(family.denoiser)
    built = family.pipeline(denoiser)
    assert built.unet is denoiser
    assert built.vae is family.base.vae


def test_encoders_are_loaded_once_and_stay_where_they_are_put(monkeypatch):
    loaded = []
    load = Base._load
    monkeypatch.setattr(
        Base, "_load", lambda self, kind, part, *dtype: loaded.append(part) or load(self, kind, part, *dtype)
    )
    family = load_family("nano")
    family.move_encoders("cpu")
    assert loaded == ["scheduler"]  # none was needed
    for _ in range(3):
        with family.encoders_on(torch.device("cpu")):
            family.encode_prompts(["a"])
    assert sorted(loaded) == ["scheduler", "text_encoder", "tokenizer", "vae"]


def test_an_encoders_state_and_content_follow_its_files(family, tmp_path):
    other = load_family(str(shutil.copytree(family.source, tmp_path / "copy")))
    for encodes in ("images", "prompts"):
        assert other.encoder_state(encodes) != family.encoder_state(encodes)  # other files
        assert other.encoder_content(encodes) == family.encoder_content(encodes)
    before = other.encoder_state("prompts"), other.encoder_content("prompts")
    with (tmp_path / "copy/tokenizer/merges.txt").open("a") as file:
        file.write("\n")
    assert other.encoder_state("prompts") != before[0]
    assert other.encoder_content("prompts") != before[1]
    assert other.encoder_content("images") == family.encoder_content("images")


def test_a_resolution_that_latents_cannot_have_is_refused(family, tmp_path):
    class Coarser(StableDiffusion):
        latent_factor = 32  # as of a deeper autoencoder

    data = DataConfig(dataset="nowhere", resolution=80, cache_dir=str(tmp_path))
    with pytest.raises(InputError, match=r"data\.resolution must be a multiple of 32, .*\(got 80\)"):
        encode_dataset(data, MaskConfig(), Coarser(family.base), [], [], None)


def velocity(base):
    """The base as if it predicted v."""
    other = copy.copy(base)
    other.__dict__["scheduler"] = DDPMScheduler.from_config(base.scheduler.config, prediction_type="v_prediction")
    return other


def test_a_zero_terminal_schedule_needs_a_base_that_predicts_v(family):
    base = family.base
    with pytest.raises(InputError, match=r"noise.rescale_betas_zero_snr: .* predicts epsilon"):
        StableDiffusion(base, rescale_betas_zero_snr=True)
    alphas = StableDiffusion(velocity(base), rescale_betas_zero_snr=True).process.alphas_cumprod
    theirs = DDPMScheduler.from_config(base.scheduler.config, rescale_betas_zero_snr=True).alphas_cumprod
    torch.testing.assert_close(alphas, theirs, rtol=2e-4, atol=1e-7)  # diffusers computes it in float32
    assert alphas[-1] == 0


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' own, of NumPy 2
def test_the_samplers_of_a_zero_terminal_base_start_from_noise_alone():
    plain = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    for kind in (PNDMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, DDPMScheduler):
        sampler = zero_snr_sampler(kind(**plain, prediction_type="v_prediction"))
        assert sampler.config.rescale_betas_zero_snr
        assert sampler.config.prediction_type == "v_prediction"
        sampler.set_timesteps(10)
        assert sampler.timesteps[0] == 999
        assert sampler.alphas_cumprod[-1] < 1e-6
