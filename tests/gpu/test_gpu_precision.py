"""Half precision, with adapters and whole; and float32 on the GPU beside the CPU's."""

import math
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from gpu_runs import DEVICE, difference, flat, train_here

from texdiff.training.validation import Validation

# Held-out loss is of fixed noise and timesteps: where the held-out textures are those that are trained on, it falls.
LEARNS = ["--run.max_train_steps", 40, "--run.train_batch_size", 8, "--run.checkpointing_steps", 40]
LEARNS += ["--data.caption_dropout", 0, "--noise.timestep_sampling", "stratified"]


@pytest.fixture
def its_own_judge(demo: Path, tmp_path: Path) -> Path:
    """The demo's dataset, held out from itself."""
    dataset = Path(shutil.copytree(demo, tmp_path / "dataset"))
    shutil.rmtree(dataset / "validation")
    shutil.copytree(dataset / "train", dataset / "validation")
    return dataset


@pytest.mark.parametrize("train", ["lora", "full"])
def test_bf16_learns_and_trains_float32_weights(train, its_own_judge, tmp_path, monkeypatch):
    seen = {}

    validate = Validation.run

    def watched(validation, step):
        parameters = [*validation.trainable.parameters()]
        seen["devices"] = {p.device.type for p in parameters}
        seen["trained"] = {p.dtype for p in parameters if p.requires_grad}
        seen["frozen"] = {p.dtype for p in parameters if not p.requires_grad}
        validate(validation, step)

    monkeypatch.setattr(Validation, "run", watched)
    flags = [*LEARNS, "--model.train", train, "--optim.learning_rate", 1e-3 if train == "full" else 1e-2]
    run = train_here(its_own_judge, tmp_path / "run", *flags, precision="bf16")
    before, after = run.held_out()[0], run.held_out()[40]
    print(f"{train}: held-out loss {before:.4f} -> {after:.4f}")
    assert after < 0.97 * before
    frozen = {torch.bfloat16} if train == "lora" else set()
    assert seen == {"devices": {DEVICE}, "trained": {torch.float32}, "frozen": frozen}
    assert {tensor.dtype for tensor in run.weights(40).values()} == {torch.float32}
    assert all(tensor.isfinite().all() for tensor in run.weights(40).values())
    if train == "full":
        from diffusers import DiffusionPipeline

        exported = DiffusionPipeline.from_pretrained(run.folder).unet.state_dict()
        assert all(torch.equal(exported[name], tensor) for name, tensor in run.weights(40).items())


@pytest.mark.needs_cuda
def test_a_step_that_fp16_leaves_out_leaves_the_schedule_where_it_was(demo, tmp_path, loss_scale):
    loss_scale(2.0**30)  # so large that float16's gradients overflow, until it has been halved often enough
    steps = 30
    run = train_here(
        demo,
        tmp_path / "run",
        *["--run.max_train_steps", steps, "--optim.lr_scheduler", "linear", "--optim.use_ema", "true"],
        precision="fp16",
    )
    taken = 0
    for rate, norm in zip(run.of_steps("learning_rate"), run.of_steps("grad_norm"), strict=True):
        assert rate == pytest.approx(1e-3 * (1 - taken / steps))
        taken += norm is not None and math.isfinite(norm)
    print(f"{taken} of {steps} steps taken, loss scale then {run.state(steps)['scaler']['scale']}")
    assert 5 <= taken <= steps - 3
    assert run.state(steps)["scaler"]["scale"] == 2.0 ** (30 - (steps - taken))
    assert run.state(steps)["ema"]["optimization_step"] == taken
    assert all(math.isfinite(loss) for loss in run.of_steps())
    first = run.of_steps("grad_norm").index(next(n for n in run.of_steps("grad_norm") if n and math.isfinite(n)))
    assert torch.equal(flat(run.weights(1)), flat(run.weights(first)))  # nothing moved before the first that was taken
    assert not torch.equal(flat(run.weights(1)), flat(run.weights(steps)))


@pytest.mark.needs_cuda
def test_fp16_clips_gradients_that_are_not_scaled(demo, tmp_path, loss_scale):
    loss_scale(2.0**8)
    flags = ["--run.max_train_steps", 1, "--optim.max_grad_norm", 1e-4]
    half = train_here(demo, tmp_path / "half", *flags, precision="fp16")
    full = train_here(demo, tmp_path / "full", *flags)
    norms = [run.of_steps("grad_norm")[0] for run in (half, full)]
    print(f"gradient's norm {norms[0]:.5f} in fp16, {norms[1]:.5f} in float32")
    assert norms[0] == pytest.approx(norms[1], rel=0.05)
    for run in (half, full):
        assert float(run.first_gradient().norm()) == pytest.approx(1e-4, rel=0.01)
    assert half.of_steps()[0] == pytest.approx(full.of_steps()[0], rel=0.02)


def test_the_first_losses_are_the_cpus(demo, tmp_path, true_float32):
    """Draws are keyed on the CPU, and so are the same; latents are from the same cache, which the CPU fills here."""
    flags = ["--run.max_train_steps", 1, "--data.cache_dir", tmp_path / "cache", "--noise.snr_gamma", 5]
    flags += ["--noise.offset", 0.1, "--noise.input_perturbation", 0.1]
    cpu = train_here(demo, tmp_path / "cpu", *flags, device="cpu")
    gpu = train_here(demo, tmp_path / "gpu", *flags)
    print(f"loss {cpu.of_steps()[0]:.7f} on the CPU, {gpu.of_steps()[0]:.7f} on the GPU")
    assert gpu.of_steps()[0] == pytest.approx(cpu.of_steps()[0], rel=1e-4)
    assert gpu.of_steps("grad_norm")[0] == pytest.approx(cpu.of_steps("grad_norm")[0], rel=1e-3)
    assert gpu.held_out()[0] == pytest.approx(cpu.held_out()[0], rel=1e-4)
    assert difference(gpu.first_gradient(), cpu.first_gradient()) < 1e-3
    for precision in ("bf16", "fp16") if DEVICE == "cuda" else ("bf16",):
        half = train_here(demo, tmp_path / precision, *flags, precision=precision)
        print(f"loss {half.of_steps()[0]:.7f} in {precision}")
        assert half.of_steps()[0] == pytest.approx(cpu.of_steps()[0], rel=0.02)
        assert half.held_out()[0] == pytest.approx(cpu.held_out()[0], rel=0.02)


def test_a_latent_cache_of_the_gpu_is_the_cpus_but_for_rounding(demo, tmp_path, true_float32):
    first = []
    for number, device in enumerate(("cpu", DEVICE)):
        flags = ["--run.max_train_steps", 1, "--data.cache_dir", tmp_path / f"cache-{number}"]
        first.append(train_here(demo, tmp_path / f"run-{number}", *flags, device=device).held_out()[0])
    print(f"held-out loss {first[0]:.7f} on the CPU's latents, {first[1]:.7f} on the GPU's")
    assert first[1] == pytest.approx(first[0], rel=1e-4)


def test_texdiffs_own_lines_warn_of_nothing(demo, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train_here(demo, tmp_path / "run", "--run.max_train_steps", 2, precision="bf16")
    said = sorted({f"{Path(one.filename).name}: {one.message}" for one in caught})
    print("\n".join(said))
    package = Path(__file__).parents[2] / "texdiff"
    own = [one for one in caught if Path(one.filename).is_relative_to(package) or "train_texture" in one.filename]
    assert not own, own[0].message
