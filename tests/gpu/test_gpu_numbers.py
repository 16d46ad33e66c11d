"""What must not depend on how it is computed: masks, the cut of a batch, the cache, dropout, the average."""

import math

import pytest
import torch
from gpu_runs import DEVICE, Finished, difference, flat, train_here
from safetensors.torch import load_file

EVERYTHING = ["--mask.downsample", "area", "--noise.timestep_sampling", "stratified", "--noise.snr_gamma", 5]
EVERYTHING += ["--mask.outside", "base_model", "--mask.unmasked_weight", 0.3, "--mask.pixel_weight", 0.1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bad", [1.0, float("inf"), float("nan")])
def test_where_the_mask_is_0_the_gradient_is_0(dtype, bad):
    from texdiff.diffusion.loss import masked_error

    random = torch.Generator().manual_seed(0)
    prediction = torch.randn(2, 4, 16, 16, generator=random)
    target = torch.randn(2, 4, 16, 16, generator=random)
    mask = torch.zeros(2, 1, 16, 16)
    mask[:, :, :5] = 1
    mask[:, :, 5] = 0.25
    void = (mask == 0).expand_as(prediction)
    prediction[void] *= bad
    prediction, target, mask = prediction.to(DEVICE, dtype).requires_grad_(), target.to(DEVICE), mask.to(DEVICE)
    error = masked_error(prediction, target, mask)
    error.sum().backward()
    assert error.isfinite().all()
    assert (prediction.grad[void] == 0).all()
    assert (prediction.grad[~void] != 0).any()
    assert prediction.grad.isfinite().all()


@pytest.mark.parametrize("reduction", ["texel", "sample"])
def test_accumulated_singles_give_the_gradient_of_one_batch(reduction, demo, tmp_path, true_float32):
    flags = [*EVERYTHING, "--mask.reduction", reduction, "--run.max_train_steps", 2, "--optim.max_grad_norm", 1e6]
    cuts = {"1x8": [8, 1], "8x1": [1, 8]}
    runs = []
    for name, (size, passes) in cuts.items():
        cut = ["--run.train_batch_size", size, "--run.gradient_accumulation_steps", passes]
        runs.append(train_here(demo, tmp_path / name, *flags, *cut))
    one, other = runs
    apart = difference(other.first_gradient(), one.first_gradient())
    print(f"gradients differ by {apart:.1e}, losses {one.of_steps()} and {other.of_steps()}")
    assert apart < 2e-5
    assert other.of_steps() == pytest.approx(one.of_steps(), rel=2e-5)


def test_every_way_to_cache_gives_the_same_losses(demo, tmp_path, true_float32):
    runs = {}
    for cache in ("disk", "memory", "off"):
        flags = ["--run.max_train_steps", 3, "--data.cache", cache, "--data.cache_dir", tmp_path / cache]
        runs[cache] = train_here(demo, tmp_path / f"run-{cache}", *flags, "--mask.pixel_weight", 0.1)
        print(f"{cache}: {runs[cache].of_steps()}")
    assert runs["memory"].of_steps() == pytest.approx(runs["disk"].of_steps(), rel=1e-5)
    assert runs["off"].of_steps() == pytest.approx(runs["disk"].of_steps(), rel=1e-4)  # other batches to encode


def test_dropout_is_keyed_by_the_samples(demo, tmp_path, true_float32):
    flags = ["--run.max_train_steps", 3, "--lora.dropout"]
    one, same, without = (
        train_here(demo, tmp_path / name, *flags, share).of_steps()
        for name, share in zip("abc", (0.5, 0.5, 0.0), strict=True)
    )
    assert same == pytest.approx(one, rel=1e-5)
    assert without[2] != pytest.approx(one[2], rel=1e-5)


def test_the_average_is_kept_on_the_device_validated_and_exported(demo, tmp_path, after_each_step):
    devices = set()
    after_each_step(
        lambda checkpointer, done: devices.update(p.device.type for p in checkpointer.parts["ema"].model.shadow_params)
    )
    flags = ["--run.max_train_steps", 4, "--optim.use_ema", "true", "--optim.ema_decay", 0.5, "--optim.learning_rate"]
    run = train_here(demo, tmp_path / "run", *flags, 1e-2, precision="bf16")
    assert devices == {DEVICE}
    exported = sorted(
        t.double().sum().item() for t in load_file(run.folder / "pytorch_lora_weights.safetensors").values()
    )
    average = sorted(t.double().sum().item() for t in run.state(4)["ema"]["shadow_params"])
    trained = sorted(t.double().sum().item() for t in run.weights(4).values())
    assert exported == average
    assert exported != trained
    assert run.held_out()[4] != run.held_out()[0]


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.needs_cuda)])
def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(precision, demo, tmp_path, capfd, loss_scale):
    loss_scale(2.0**8)  # so small that no step of float16 is left out
    flags = ["--run.max_train_steps", 12, "--run.checkpointing_steps", 3, "--optim.learning_rate", 1e30]
    with pytest.raises(SystemExit) as ended:
        train_here(demo, tmp_path / "run", *flags, "--run.train_batch_size", 2, precision=precision)
    said = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert ended.value.code == 2
    assert said[-1].startswith("train_texture.py: error: step ")
    assert str(demo) in said[-1]
    assert "is not finite, so the run stops before it learns from it" in said[-1]
    assert "Traceback" not in "".join(said)
    assert not list((tmp_path / "run/checkpoints").glob("step-*"))  # what it had learnt by step 3 is not saved
    assert not (tmp_path / "run/pytorch_lora_weights.safetensors").exists()
    assert all(math.isfinite(loss) for loss in Finished(tmp_path / "run").of_steps())


@pytest.mark.needs_cuda
def test_a_full_gpu_ends_the_run_in_one_line(demo, tmp_path, capfd, after_each_step):
    def fill(checkpointer, done):
        if done == 2:
            torch.empty(2**50, dtype=torch.uint8, device=DEVICE)

    after_each_step(fill)
    with pytest.raises(SystemExit) as ended:
        train_here(demo, tmp_path / "run", "--run.max_train_steps", 3)
    said = capfd.readouterr().err
    print(said.splitlines()[-1])
    assert ended.value.code == 2
    assert said.splitlines()[-1].startswith("train_texture.py: error: ")
    assert "memory" in said.splitlines()[-1]
    assert "run.train_batch_size" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()].count("step-00000002") == 1


def test_adapters_in_half_precision_begin_as_in_full(demo, tmp_path):
    """PEFT makes them in the frozen weights' precision: what is trained is that, widened, and no other draw."""
    flags = ["--run.max_train_steps", 1, "--optim.learning_rate", 1e-30, "--optim.weight_decay", 0]
    full = train_here(demo, tmp_path / "full", *flags)
    half = train_here(demo, tmp_path / "half", *flags, precision="bf16")
    assert difference(flat(half.weights(1)), flat(full.weights(1))) < 5e-3
