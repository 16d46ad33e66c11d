"""Layout nets: what they change before the first step, at scale 0, and in diffusers' own pipeline."""

import json
import shutil

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline, StableDiffusionXLControlNetPipeline

from texdiff.config import LayoutConfig, LoraConfig
from texdiff.errors import InputError
from texdiff.models.family import Conditioning, load_family
from texdiff.models.layout_net import Maps, make_layout_net, maps_of, read_layout_net, write_layout_net
from texdiff.models.trainable import ControlNetDenoiser, describe_training, make_trainable

# diffusers' sampler hands a tensor to NumPy 2 in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def family():
    return load_family("nano")


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    layout = 0.05 + 0.9 * torch.rand(2, 3, 64, 64, generator=generator)
    layout[:, :, 40:] = 0
    prompt = {"text": torch.randn(2, 77, 32, generator=generator)}
    noisy = torch.randn(2, 4, 8, 8, generator=generator)
    return noisy, torch.tensor([10, 900]), Conditioning(prompt=prompt, layout=layout)


def stirred(net, seed=1):
    """The net as after a training: no weight of it is 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.fixture
def net(family, tmp_path):
    """The folder of a net that changes something."""
    write_layout_net(stirred(make_layout_net(family.denoiser, 8, Maps())), tmp_path / "net/controlnet")
    return tmp_path / "net"


@torch.no_grad()
def test_a_new_net_changes_no_bit_of_the_prediction(family, inputs):
    trainable = make_trainable(
        family, "controlnet", LoraConfig(), 0, torch.float32, LayoutConfig(maps="position", dropout=0.5)
    )
    assert torch.equal(trainable(*inputs), family.predict(family.denoiser, *inputs))
    assert all(name.startswith(("control", "conv", "time", "down", "mid")) for name in trainable.trained())


@torch.no_grad()
def test_at_scale_0_no_bit_changes_and_at_half_scale_diffusers_agrees(family, inputs, net):
    loaded, (noisy, t, conditioning) = read_layout_net(net), inputs
    plain = family.predict(family.denoiser, *inputs)
    assert torch.equal(family.predict(family.denoiser, *inputs, loaded, scale=0.0), plain)
    own = ControlNetModel.from_pretrained(net / "controlnet")
    text = conditioning.prompt["text"]
    down, middle = own(noisy, t, text, controlnet_cond=conditioning.layout, return_dict=False)
    expected = family.denoiser(
        noisy,
        t,
        text,
        down_block_additional_residuals=[0.5 * part for part in down],
        mid_block_additional_residual=0.5 * middle,
    ).sample
    got = family.predict(family.denoiser, *inputs, loaded, scale=0.5)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    assert (got - plain).abs().max() > 1e-2


@torch.no_grad()
def test_a_pipeline_of_diffusers_draws_what_the_family_predicts(family, inputs, net):
    """The first step of DDIM from the same latents, without guidance."""
    noisy, _, conditioning = inputs
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(
        family.source, controlnet=ControlNetModel.from_pretrained(net / "controlnet"), safety_checker=None
    )
    pipeline.set_progress_bar_config(disable=True)
    seen = {}
    forward = pipeline.unet.forward

    def watch(sample, t, encoder_hidden_states, **residuals):
        seen["input"], seen["t"], seen["text"] = sample, t, encoder_hidden_states
        seen["prediction"] = forward(sample, t, encoder_hidden_states, **residuals)
        return seen["prediction"]

    pipeline.unet.forward = watch
    pipeline(
        ["a", "b"],
        image=conditioning.layout,
        latents=noisy,
        num_inference_steps=1,
        guidance_scale=1.0,
        output_type="latent",
    )
    t = seen["t"].expand(2)
    conditioning = Conditioning(prompt={"text": seen["text"]}, layout=conditioning.layout)
    got = family.predict(family.denoiser, seen["input"], t, conditioning, read_layout_net(net))
    torch.testing.assert_close(got, seen["prediction"][0], rtol=1e-5, atol=1e-6)


def test_only_the_net_is_trained_and_frozen_is_the_base_alone(family, inputs):
    trainable = make_trainable(family, "controlnet", LoraConfig(), 0, torch.float32, LayoutConfig(maps="position"))
    assert isinstance(trainable, ControlNetDenoiser)
    plain = family.predict(family.denoiser, *inputs)
    assert not plain.requires_grad
    stirred(trainable.layout_net)
    trainable(*inputs).square().mean().backward()
    assert all(parameter.grad is not None for parameter in trainable.trained().values())
    assert all(parameter.grad is None for parameter in family.denoiser.parameters())
    assert torch.equal(trainable.frozen_prediction(*inputs), plain)
    size = sum(parameter.numel() for parameter in trainable.trained().values())
    said = describe_training(family, "controlnet", LoraConfig())
    assert said == f"every weight of the layout net: {size:,} parameters"


def test_under_a_net_adapters_alone_are_trained(family, inputs, net):
    settings = LayoutConfig(maps="position", init=str(net))
    trainable = make_trainable(family, "lora", LoraConfig(rank=2), 0, torch.float32, settings)
    before = family.predict(family.denoiser, *inputs, read_layout_net(net))
    prediction = trainable(*inputs)
    assert torch.equal(prediction, before)
    assert torch.equal(trainable.frozen_prediction(*inputs), before)
    prediction.square().mean().backward()
    trained = {name for name, parameter in trainable.named_parameters() if parameter.grad is not None}
    assert trained == {f"denoiser.{name}" for name in trainable.trained()}
    assert all("lora" in name for name in trained)


def test_what_the_maps_show_travels_with_the_net(family, tmp_path):
    for maps in (Maps(), Maps(kind="mask"), Maps(scale=0.6)):
        write_layout_net(make_layout_net(family.denoiser, 8, maps), tmp_path / "net")
        assert maps_of(read_layout_net(tmp_path / "net")) == maps
    positions = torch.tensor([0.05, 0.5, 0.95, 0.05, 0.7, 0.95, 0.0, 0.0, 0.0]).view(1, 3, 3, 1).permute(0, 2, 1, 3)
    mask = Maps(kind="mask").of(positions)
    assert mask[0, :, :, 0].T.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0]]
    scaled = Maps(scale=0.6).of(positions)[0, :, :, 0].T
    expected = torch.tensor([[0.2, 0.5, 0.8], [0.2, 0.5 + 0.2 * 2 / 3, 0.8], [0, 0, 0]])
    torch.testing.assert_close(scaled, expected)


def test_what_was_loaded_to_be_checked_is_not_loaded_again(family, net, monkeypatch):
    loads, load = [], ControlNetModel.from_pretrained
    monkeypatch.setattr(ControlNetModel, "from_pretrained", lambda *of, **its: loads.append(of) or load(*of, **its))
    settings = LayoutConfig(maps="position", init=str(net))
    family.check_layout_net(settings)
    first = family.layout_net(LayoutConfig(maps="position", init=str(net)))
    assert len(loads) == 1
    assert family.layout_net(settings) is not first  # each who asks has one of its own
    family.check_layout_net(settings)
    assert maps_of(family.layout_net(LayoutConfig(maps="position", init=str(net), scale=0.6))) == Maps(scale=0.6)
    assert len(loads) == 4


def test_a_net_of_others_can_be_named_with_its_scale(family, net):
    config = net / "controlnet/config.json"
    settings = json.loads(config.read_text("utf-8"))
    del settings["_texdiff"]
    config.write_text(json.dumps(settings), "utf-8")
    assert maps_of(family.layout_net(LayoutConfig(maps="position", init=str(net)))) == Maps()
    assert maps_of(family.layout_net(LayoutConfig(maps="position", init=str(net), scale=0.6))) == Maps(scale=0.6)


@pytest.mark.parametrize(
    ("change", "maps", "said"),
    [
        (None, "mask", "layout.maps mask: .* was trained with position maps; set it to position"),
        ({"conditioning_channels": 4}, "position", "layout.init .*: wants maps of 4 channels"),
        ({"cross_attention_dim": 64}, "position", "layout.init .*: cannot be loaded as a ControlNetModel"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "position", "layout.init .*: wants its channels"),
    ],
)
def test_nets_that_do_not_fit_are_refused_in_one_line(change, maps, said, family, net):
    config = net / "controlnet/config.json"
    if change and "conditioning_channels" in change:
        odd = ControlNetModel.from_unet(family.denoiser, conditioning_channels=4)
        odd.save_pretrained(net / "controlnet")
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | (change or {})), "utf-8")
    with pytest.raises(InputError, match=said) as refused:
        family.layout_net(LayoutConfig(maps=maps, init=str(net)))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("file", ["config.json", "diffusion_pytorch_model.safetensors"])
@pytest.mark.parametrize("left", [0, 100, None])
def test_damaged_nets_are_refused_in_one_line(file, left, family, net):
    path = net / "controlnet" / file
    data = path.read_bytes()
    path.write_bytes(data[:left] if left is not None else data[:50] + b"\xff\x00\x17" * 20 + data[110:])
    with pytest.raises(InputError, match=r"layout.init .*: cannot be loaded as a ControlNetModel") as refused:
        family.layout_net(LayoutConfig(maps="position", init=str(net)))
    assert len(str(refused.value).splitlines()) == 1


def test_nets_for_another_base_and_folders_without_one_are_refused(family, net, tmp_path):
    from diffusers import UNet2DConditionModel

    wide = UNet2DConditionModel.from_config(dict(family.denoiser.config) | {"block_out_channels": (32, 64, 64)})
    write_layout_net(make_layout_net(wide, 8, Maps()), tmp_path / "wide")
    with pytest.raises(InputError, match=r"layout.init .*wide: is a layout net for another base \(block_out_channels"):
        family.layout_net(LayoutConfig(maps="position", init=str(tmp_path / "wide")))
    write_layout_net(make_layout_net(family.denoiser, 4, Maps()), tmp_path / "quick")
    with pytest.raises(InputError, match="makes maps 4 times smaller"):
        family.layout_net(LayoutConfig(maps="position", init=str(tmp_path / "quick")))
    with pytest.raises(InputError, match=r"layout.init .*nothing: no layout net there"):
        family.layout_net(LayoutConfig(maps="position", init=str(tmp_path / "nothing")))
    shutil.rmtree(net / "controlnet")
    with pytest.raises(InputError, match=r"--layout .*net: no layout net there"):
        read_layout_net(net)


@torch.no_grad()
def test_stable_diffusion_xl_has_layout_nets_too(base_xl):
    """What the family predicts is what diffusers' XL pipeline does in the first step from the same latents."""
    family = load_family(str(base_xl))
    net = stirred(make_layout_net(family.denoiser, family.latent_factor, Maps()))
    pipeline = family.pipeline(family.denoiser, net)
    pipeline.set_progress_bar_config(disable=True)
    assert type(pipeline) is StableDiffusionXLControlNetPipeline
    generator = torch.Generator().manual_seed(0)
    noisy, layout = torch.randn(1, 4, 8, 8, generator=generator), torch.rand(1, 3, 64, 64, generator=generator)
    seen = {}
    forward = pipeline.unet.forward

    def watch(sample, t, **inputs):
        seen["sample"], seen["t"] = sample, t
        seen["prediction"] = forward(sample, t, **inputs)
        return seen["prediction"]

    pipeline.unet.forward = watch
    arguments = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    pipeline("a crate", image=layout, latents=noisy, height=64, width=64, **arguments)
    pipeline.unet.forward = forward
    conditioning = Conditioning(prompt=family.encode_prompts(["a crate"]), layout=layout)
    got = family.predict(family.denoiser, seen["sample"], seen["t"].expand(1), conditioning, net)
    torch.testing.assert_close(got, seen["prediction"][0], rtol=1e-4, atol=1e-5)
