"""Whatever makes a step faster or smaller leaves the losses as they are."""

import copy
import types

import pytest
import torch
from torch.utils._pytree import tree_unflatten

from texdiff.config import DataConfig, LoraConfig, OptimConfig, RunConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.models.base import load_base
from texdiff.models.family import Conditioning, load_family
from texdiff.models.trainable import FullDenoiser, LoraDenoiser, add_lora, trainable_parameters
from texdiff.training.optimizer import make_clip, make_lr_scheduler, make_optimizer
from texdiff.training.parallel import Parallel
from texdiff.training.run.state_file import read_state, write_state
from texdiff.training.speed import adapters_in_input_precision, norms_in_input_precision, record_graphs, speed_up

STEPS = 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parallel():
    return Parallel(cpu=True)


def losses_of(parallel, optimizer=None, run=None, lora=False, layout=torch.contiguous_format, reloaded=False, **optim):
    """Losses and gradient norms of a few steps on the same tensors, and the trained U-Net.

    `reloaded`: with the optimiser's state loaded before the first step, as accelerate and a resume do."""
    config = OptimConfig(learning_rate=1e-3, lr_scheduler="linear", **{"max_grad_norm": None} | optim)
    family = load_family("nano")
    trainable = LoraDenoiser(family, LoraConfig(rank=4), 0, torch.float32) if lora else FullDenoiser(family)
    unet = trainable.train().denoiser.to(memory_format=layout)
    config_of_run = TrainingConfig(data=DataConfig(dataset="d"), run=run or RunConfig())
    speed_up(trainable, config_of_run, types.SimpleNamespace(device=CPU, dtype=torch.float32), None)
    parameters = list(trainable_parameters(unet).values())
    optimizer = optimizer(parameters) if optimizer else make_optimizer(config, parameters)
    clip = make_clip(config, optimizer, parameters, parallel)
    schedule = make_lr_scheduler(config, optimizer, STEPS)
    if reloaded:
        optimizer.load_state_dict(optimizer.state_dict())
    figures = []
    for step in range(STEPS):
        random = torch.Generator().manual_seed(step)
        noisy, target = torch.randn(2, 2, 4, 8, 8, generator=random)
        text = torch.randn(2, 77, unet.config.cross_attention_dim, generator=random)
        loss = (unet(noisy, torch.tensor([100, 700]), text).sample - target).square().mean()
        loss.backward()
        figures += [loss.item(), clip().item()]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return torch.tensor(figures, dtype=torch.float64), unet


def plain_adamw(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2, foreach=False, fused=False)


@pytest.fixture(scope="module")
def plain(parallel):
    return losses_of(parallel, plain_adamw)[0]


def test_fused_adamw(parallel, plain):
    torch.testing.assert_close(losses_of(parallel)[0], plain, rtol=1e-5, atol=0)
    assert make_optimizer(OptimConfig(), [torch.nn.Parameter(torch.zeros(1))]).defaults["fused"]


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_a_step_in_the_backward_pass_is_the_same_step(parallel, name):
    one, unet = losses_of(parallel, name=name)
    other, same = losses_of(parallel, name=name, fused_backward_pass=True)
    torch.testing.assert_close(other, one, rtol=1e-6, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), same.parameters(), strict=True))


def test_steps_in_the_backward_pass_follow_the_schedule_after_a_state_was_loaded(parallel):
    """torch makes new groups when it loads a state; the schedule changes those."""
    one, unet = losses_of(parallel, reloaded=True)
    other, same = losses_of(parallel, reloaded=True, fused_backward_pass=True)
    torch.testing.assert_close(other, one, rtol=1e-6, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), same.parameters(), strict=True))


def test_with_the_step_in_the_backward_pass_there_is_one_gradient_at_a_time(parallel):
    unet = load_base("nano").unet.train()
    parameters = list(unet.parameters())
    config = OptimConfig(max_grad_norm=None, fused_backward_pass=True)
    optimizer = make_optimizer(config, parameters)
    make_clip(config, optimizer, parameters, parallel)
    most = []
    for parameter in parameters:
        parameter.register_hook(lambda grad: most.append(sum(p.grad is not None for p in parameters)))
    unet(
        torch.zeros(1, 4, 8, 8), torch.tensor([5]), torch.zeros(1, 77, unet.config.cross_attention_dim)
    ).sample.sum().backward()
    assert len(most) == len(parameters)
    assert max(most) == 0  # as each gradient comes, all before it have gone


def test_gradient_checkpointing_and_channels_last(parallel, plain):
    run = RunConfig(gradient_checkpointing=True)
    torch.testing.assert_close(losses_of(parallel, plain_adamw, run)[0], plain, rtol=1e-5, atol=0)
    layout = torch.channels_last
    torch.testing.assert_close(losses_of(parallel, plain_adamw, layout=layout)[0], plain, rtol=1e-4, atol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")  # torch's own
def test_compiled_blocks(parallel):
    eager = losses_of(parallel, lora=True)[0]
    compiled, unet = losses_of(parallel, run=RunConfig(compile=True), lora=True)
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=0)
    blocks = [m for m in unet.modules() if type(m).__name__ == "BasicTransformerBlock"]
    assert all(block._compiled_call_impl is not None for block in blocks)


def test_norms_and_adapters_stay_in_half_precision_where_their_input_is(parallel):
    """What the GPU always gets: the same answer to bf16's rounding, without float32 in between."""
    unet = load_base("nano").unet
    add_lora(unet.to(torch.bfloat16), LoraConfig(rank=4), seed=0)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([5, 800]), torch.randn(2, 77, unet.config.cross_attention_dim)
    inputs = tuple(i.to(torch.bfloat16) if i.is_floating_point() else i for i in inputs)
    seen = []
    for module in unet.modules():
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            module.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    wide = unet.double()(*(i.double() if i.is_floating_point() else i for i in inputs)).sample
    seen.clear()
    unet.to(torch.bfloat16)
    for parameter in trainable_parameters(unet).values():
        parameter.data = parameter.data.float()
    with torch.autocast("cpu", torch.bfloat16):
        before = unet(*inputs).sample
        norms_in_input_precision(unet)
        adapters_in_input_precision(unet)
        seen.clear()
        after = unet(*inputs).sample
    assert seen
    assert set(seen) == {torch.bfloat16}
    distance = [(found.double() - wide).norm() / wide.norm() for found in (before, after)]
    assert distance[1] < 1.25 * distance[0]


def test_attention_is_torchs_fused_one(monkeypatch):
    import torch.nn.functional as F

    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(a) or fused(*a, **k))
    unet = load_base("nano").unet
    add_lora(unet, LoraConfig(rank=4), seed=0)
    unet(torch.zeros(1, 4, 8, 8), torch.tensor([5]), torch.zeros(1, 77, unet.config.cross_attention_dim))
    assert len(calls) == len(unet.attn_processors)


def test_frozen_weights_are_half_under_adapters_and_adapters_are_not():
    unet = load_base("nano").unet
    add_lora(unet.to(torch.bfloat16), LoraConfig(rank=4), seed=0)
    trained = trainable_parameters(unet)
    assert {p.dtype for p in trained.values()} == {torch.float32}
    frozen = [p for name, p in unet.named_parameters() if name not in trained]
    assert {p.dtype for p in frozen} == {torch.bfloat16}


def test_what_is_recorded_is_the_denoiser_as_a_function_of_tensors(monkeypatch):
    """All but the recording itself, which needs a GPU."""
    passes = []

    def record(module, tensors):
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors)
        module(*tensors)
        twin, names = copy.deepcopy(module.denoiser), module.names  # a replay does not call the denoiser either
        module.forward = lambda *tensors: passes.append(tensors) or twin(**tree_unflatten(tensors, names))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    trainable = LoraDenoiser(load_family("nano"), LoraConfig(rank=4), 0, torch.float32).train()
    textures = types.SimpleNamespace(latent_shape=(4, 8, 8))
    texture = types.SimpleNamespace(prompt=trainable.family.encode_prompts(["a", "b"]), known=None)
    textures.batch = lambda indices: types.SimpleNamespace(to=lambda device, dtype: texture)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), Conditioning(prompt=texture.prompt)
    expected = trainable(*inputs)
    record_graphs(trainable, 2, textures, torch.float32)
    assert torch.equal(trainable(*inputs), expected)
    assert len(passes) == 1
    assert torch.equal(trainable.eval()(*inputs), expected)
    assert len(passes) == 1


def test_eight_bits_train_alike_and_can_be_kept(parallel, plain, tmp_path):
    pytest.importorskip("bitsandbytes")
    torch.testing.assert_close(losses_of(parallel, name="adamw8bit")[0], plain, rtol=1e-3, atol=0)
    parameter = torch.nn.Parameter(torch.ones(100, 100))
    optimizer = make_optimizer(OptimConfig(name="adamw8bit"), [parameter])
    parameter.grad = torch.ones(100, 100)
    optimizer.step()
    write_state(optimizer.state_dict(), tmp_path / "state.safetensors")
    optimizer.load_state_dict(read_state(tmp_path / "state.safetensors"))
    optimizer.step()
    assert optimizer.state[parameter]["state1"].dtype == torch.uint8


def test_several_processes_or_scaled_gradients_cannot_step_in_the_backward_pass():
    ranks = types.SimpleNamespace(world=2, scaler=None)
    config = OptimConfig(max_grad_norm=None, fused_backward_pass=True)
    with pytest.raises(InputError, match=r"optim\.fused_backward_pass: needs a single process"):
        make_clip(config, make_optimizer(config, [torch.nn.Parameter(torch.zeros(1))]), [], ranks)
