"""The base's parts, and adapters in its U-Net."""

import pytest
import torch

from texdiff.config import LoraConfig
from texdiff.errors import InputError
from texdiff.models.base import Base, load_base
from texdiff.models.family import Conditioning, load_family
from texdiff.models.lora_files.write import write_lora
from texdiff.models.stable_diffusion import StableDiffusion
from texdiff.models.trainable import FullDenoiser, LoraDenoiser, add_lora, describe_training, trainable_parameters


@pytest.fixture
def unet():
    return load_base("nano").unet


def predict(unet):
    generator = torch.Generator().manual_seed(0)
    noisy = torch.randn(2, 4, 8, 8, generator=generator).to(unet.dtype)
    text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator).to(unet.dtype)
    return unet(noisy, torch.tensor([10, 900]), text).sample


def test_the_base_has_stable_diffusions_parts():
    base = load_base("nano")
    kinds = [type(getattr(base, part)).__name__ for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")]
    assert kinds == ["UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel", "CLIPTokenizer", "DDPMScheduler"]
    assert base.vae.config.latent_channels == 4
    assert base.vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape == (1, 4, 8, 8)
    assert base.scheduler.alphas_cumprod[-1].item() == pytest.approx(0.0047, abs=1e-4)  # SD's last ᾱ
    assert base.tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]  # CLIP's own


def test_adapters_alone_are_trained_and_change_nothing_before_the_first_step(unet):
    with torch.no_grad():
        before = predict(unet)
    frozen = {name for name, _ in unet.named_parameters()}
    add_lora(unet, LoraConfig(rank=4), seed=0)
    parameters = trainable_parameters(unet)
    assert parameters
    assert all("lora" in name for name in parameters)
    assert not {name for name in frozen if name in parameters}
    with torch.no_grad():
        torch.testing.assert_close(predict(unet), before, rtol=0, atol=0)
    predict(unet).square().mean().backward()
    for name, parameter in unet.named_parameters():
        assert (parameter.grad is not None) == (name in parameters), name


def test_adapters_start_from_the_seed_whatever_was_drawn_before():
    starts = []
    for seed in (1, 1, 2):
        torch.rand(3)
        unet = load_base("nano").unet
        add_lora(unet, LoraConfig(rank=2), seed=seed)
        starts.append(torch.cat([p.detach().flatten() for p in trainable_parameters(unet).values()]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_adapters_are_float32_in_a_half_precision_base(unet):
    add_lora(unet.to(torch.bfloat16), LoraConfig(), seed=0)
    assert {p.dtype for p in trainable_parameters(unet).values()} == {torch.float32}
    assert unet.conv_in.weight.dtype == torch.bfloat16


def test_a_frozen_base_is_loaded_in_its_own_precision(unet, monkeypatch):
    loaded = []
    load = Base._load
    monkeypatch.setattr(
        Base, "_load", lambda self, kind, part, *dtype: loaded.append(dtype) or load(self, kind, part, *dtype)
    )
    trainable = LoraDenoiser(load_family("nano"), LoraConfig(), 0, torch.bfloat16)
    assert (torch.bfloat16,) in loaded
    add_lora(unet.to(torch.bfloat16), LoraConfig(), seed=0)
    ours = trainable.denoiser.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in unet.state_dict().items())
    assert {p.dtype for p in FullDenoiser(load_family("nano")).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("zzz",), "zzz is the name of no layer that can have an adapter; there are conv, conv1"),
        (("to_q", "to_kk"), "to_kk is the name of no layer .*; nearest are to_k"),
        (("to_k", "attn2.to_qq"), "attn2.to_qq is the name of no layer .*; nearest are attn2.to_q, "),
        (("to_out",), "to_out is the name of no layer .*; nearest are to_out.0"),
        (("to_k", "norm1"), "norm1 is the name of no layer that can have an adapter"),
        (("to_k", "o_q"), "o_q is the name of no layer"),
    ],
)
def test_names_of_layers_that_are_not_there_are_refused(names, said, unet):
    with pytest.raises(InputError, match=rf"lora\.target_modules: {said}") as refused:
        add_lora(unet, LoraConfig(target_modules=names), seed=0)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "settings",
    [LoraConfig(rank=4), LoraConfig(rank=3, target_modules=("to_k", "conv1"), use_dora=True)],
    ids=["attention", "convolutions, DoRA"],
)
def test_what_will_be_trained_is_known_without_weights(settings, unet):
    said = describe_training(load_family("nano"), "lora", settings)
    add_lora(unet, settings, seed=0)
    size = sum(parameter.numel() for parameter in trainable_parameters(unet).values())
    adapted = [name for name, module in unet.named_modules() if hasattr(module, "lora_A")]
    counts = [f"{end} {sum(name.endswith(end) for name in adapted)}" for end in settings.target_modules]
    assert said == f"adapters of rank {settings.rank} on {', '.join(counts)}: {size:,} parameters"


def test_of_full_training_every_weight_is_counted(unet):
    size = sum(parameter.numel() for parameter in unet.parameters())
    assert describe_training(load_family("nano"), "full", LoraConfig()).endswith(f": {size:,} parameters")


@pytest.mark.parametrize(
    "settings",
    [
        LoraConfig(rank=4, alpha=6),
        LoraConfig(rank=2, use_dora=True),
        LoraConfig(rank=2, target_modules=("to_k", "conv1")),
    ],
    ids=["alpha", "dora", "convolutions"],
)
def test_exported_adapters_predict_the_same_in_a_pipeline(settings, unet, tmp_path):
    from diffusers import StableDiffusionPipeline

    add_lora(unet, settings, seed=0)
    with torch.no_grad():
        for parameter in trainable_parameters(unet).values():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        trained = predict(unet)
    write_lora(unet, tmp_path)
    pipeline = StableDiffusionPipeline.from_pretrained(load_base("nano").source, safety_checker=None)
    with torch.no_grad():
        base = predict(pipeline.unet)
        pipeline.load_lora_weights(tmp_path)
        loaded = predict(pipeline.unet)
    torch.testing.assert_close(loaded, trained, rtol=1e-5, atol=1e-6)
    assert (loaded - base).abs().max() > 1e-3


@pytest.fixture
def trained(unet):
    """A denoiser with adapters that do something, and an input for it."""
    trainable = LoraDenoiser(StableDiffusion(load_base("nano")), LoraConfig(rank=2), 0, torch.float32)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in trainable.trained().items():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=generator)
    return trainable, noisy, torch.tensor([10, 700]), Conditioning(prompt={"text": text})


def test_the_frozen_prediction_is_that_of_the_base_and_leaves_the_adapters_as_they_were(unet, trained):
    trainable, noisy, t, conditioning = trained
    before = trainable(noisy, t, conditioning)
    gradients = {name: p.requires_grad for name, p in trainable.named_parameters()}
    own = trainable.frozen_prediction(noisy, t, conditioning)
    assert torch.equal(own, unet(noisy, t, conditioning.prompt["text"]).sample)
    assert not own.requires_grad
    assert (own - before).abs().max() > 1e-3
    assert torch.equal(trainable(noisy, t, conditioning), before)
    assert gradients == {name: p.requires_grad for name, p in trainable.named_parameters()}
    assert any(gradients.values())
