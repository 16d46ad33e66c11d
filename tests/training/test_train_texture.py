"""The program as a user runs it."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from run_figures import relative_difference
from safetensors import safe_open
from safetensors.torch import load_file

from texdiff.models.base import load_base, resolve_base
from texdiff.training.run import Run
from texdiff.training.run.state_file import read_state

LORA = "pytorch_lora_weights.safetensors"


def succeed(result):
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


def first_gradient(run: Path) -> dict[str, torch.Tensor]:
    """The gradient of step 1, from Adam's state: its first moment is then (1 − β₁) · g."""
    state = read_state(run / "checkpoints" / "step-00000001" / "state.safetensors")["optimizer"]["state"]
    return {str(index): entry["exp_avg"] / 0.1 for index, entry in state.items()}


@pytest.fixture(scope="module")
def whole(dataset, train, tmp_path_factory):
    """Six steps of batch 4 in one go, each a checkpoint."""
    run = tmp_path_factory.mktemp("whole") / "run"
    result = succeed(train(*BATCH, "--data.dataset", dataset, "--run.output_dir", run))
    return run, result


BATCH = ["--run.max_train_steps", 6, "--run.checkpointing_steps", 1, "--run.checkpoints_total_limit", 9]
BATCH += ["--run.train_batch_size", 4, "--optim.learning_rate", 1e-3, "--optim.max_grad_norm", 1e6]


def test_a_run_says_what_it_does_and_leaves_what_it_should(whole):
    run, result = whole
    assert "6 to train on, 2 held out" in result.stdout
    assert "mean coverage    50.0%" in result.stdout
    assert "effective batch  4 = 4 a micro-batch x 1 micro-batches x 1 processes" in result.stdout
    lines = metrics(run)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if "validation_loss" in line] == [0, 6]
    first = next(line for line in lines if line["step"] == 1)
    assert first["samples_seen"] == 4
    assert first["learning_rate"] == 1e-3
    assert {"loss", "grad_norm", "coverage", "images_per_second"} <= first.keys()
    assert [p.name for p in sorted((run / "checkpoints").iterdir())] == [f"step-{i:08d}" for i in range(1, 7)]
    assert (run / "config.yaml").is_file()


def test_first_batch_picture_shows_the_masks_that_count(whole):
    run, _ = whole
    picture = np.asarray(Image.open(run / "first_batch.png")).astype(int)
    assert picture.shape == (4 * 64 + 3 * 8, 3 * 64 + 2 * 8, 3)
    for row in range(4):
        band = slice(72 * row, 72 * row + 64)
        white = (picture[band, 72:136] == 255).all(axis=(1, 2))
        texture, counted = picture[band, :64], picture[band, 144:208]
        for top in range(0, 64, 8):  # a latent cell counts where its top-left texel does
            same = (texture[top : top + 8] == counted[top : top + 8]).all()
            assert same == white[top]


def test_accumulated_singles_give_the_gradient_and_the_adapters_of_one_batch(whole, dataset, train, tmp_path):
    run, _ = whole
    alone = ["--run.train_batch_size", 1, "--run.gradient_accumulation_steps", 4]
    succeed(train(*BATCH, *alone, "--data.dataset", dataset, "--run.output_dir", tmp_path / "run"))
    assert relative_difference(first_gradient(run), first_gradient(tmp_path / "run")) < 1e-5
    after_five = [load_file(r / "checkpoints/step-00000005/weights.safetensors") for r in (run, tmp_path / "run")]
    assert relative_difference(*after_five) < 1e-3
    trained, untouched = after_five[0], load_file(run / "checkpoints/step-00000001/weights.safetensors")
    assert relative_difference(trained, untouched) > 1e-3  # else the comparison would say nothing


def test_two_ranks_give_the_gradient_of_one_batch(whole, dataset, run_program, tmp_path):
    run, _ = whole
    ranks = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "train_texture.py"]
    flags = ["--data.resolution", 64, "--validation.num_images", 0, "--run.report_to", "none", *BATCH]
    flags += ["--run.train_batch_size", 2, "--run.max_train_steps", 2]
    folders = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    result = run_program(*ranks, *flags, *folders, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    succeed(result)
    assert "2 processes" in result.stdout
    assert relative_difference(first_gradient(run), first_gradient(tmp_path / "run")) < 1e-5
    losses = [[line["loss"] for line in metrics(r) if "loss" in line][:2] for r in (run, tmp_path / "run")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_ranks_that_do_not_know_each_other_are_refused(dataset, run_program, tmp_path):
    command = [sys.executable, "train_texture.py", "--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    result = run_program(*command, WORLD_SIZE="2", RANK="0", LOCAL_RANK="-1")
    assert result.returncode == 2
    assert "2 processes were launched but accelerate runs 1" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_stopped_run_goes_on_bit_for_bit(whole, dataset, train, tmp_path):
    run, _ = whole
    again = [*BATCH, "--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    succeed(train(*again, "--run.max_train_steps", 3))
    after_3 = (tmp_path / "run" / LORA).read_bytes()
    result = succeed(train(*again))
    assert "continues from" in result.stdout
    one, other = load_file(run / LORA), load_file(tmp_path / "run" / LORA)
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert [m["loss"] for m in metrics(run) if "loss" in m] == [
        m["loss"] for m in metrics(tmp_path / "run") if "loss" in m
    ]
    succeed(train(*again, "--run.max_train_steps", 3))  # and back
    assert (tmp_path / "run" / LORA).read_bytes() == after_3
    assert [m["step"] for m in Run(tmp_path / "run").metrics() if "loss" in m] == [1, 2, 3]
    succeed(train(*again))  # and forth, with nothing lost in between
    assert [m["step"] for m in metrics(tmp_path / "run") if "loss" in m] == [1, 2, 3, 4, 5, 6]
    assert [m["step"] for m in metrics(tmp_path / "run") if "validation_loss" in m] == [0, 3, 6]


def test_what_would_train_something_else_is_refused(whole, dataset, train, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run")
    again = [*BATCH, "--data.dataset", dataset, "--run.output_dir", run]
    refused = train(*again, "--run.seed", 5)
    assert refused.returncode == 2
    assert "run.seed: 0, now 5" in refused.stderr
    fresh = succeed(train(*again, "--run.seed", 5, "--run.resume", "never", "--run.max_train_steps", 1))
    assert f"{tmp_path / 'run-2'} (starts new)" in fresh.stdout


def test_lora_loads_in_diffusers_and_is_what_was_trained(dataset, train, tmp_path):
    from diffusers import StableDiffusionPipeline

    flags = ["--lora.rank", 4, "--lora.alpha", 2, "--optim.learning_rate", 1e-2, "--run.max_train_steps", 5]
    succeed(train(*flags, "--data.dataset", dataset, "--run.output_dir", tmp_path / "run"))
    with safe_open(tmp_path / "run" / LORA, "pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
        assert all(key.startswith("unet.") for key in file.keys())  # noqa: SIM118
    assert (metadata["unet.r"], metadata["unet.lora_alpha"]) == (4, 2)

    pipeline = StableDiffusionPipeline.from_pretrained(resolve_base("nano"), safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def picture():
        generator = torch.Generator().manual_seed(0)
        return pipeline(
            "colours", num_inference_steps=2, height=64, width=64, output_type="np", generator=generator
        ).images

    before = picture()
    pipeline.load_lora_weights(tmp_path / "run")
    after = picture()
    assert np.abs(before - after).max() > 1e-3
    assert pipeline.unet.peft_config["default_0"].lora_alpha == 2
    trained = load_file(tmp_path / "run/checkpoints/step-00000005/weights.safetensors")
    loaded = {k.replace("default_0", "default"): p for k, p in pipeline.unet.named_parameters() if "lora" in k}
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[k], trained[k]) for k in trained)
    assert any(trained[k].abs().max() > 0 for k in trained if "lora_B" in k)


def test_full_fine_tuning_leaves_a_pipeline(dataset, train, tmp_path):
    from diffusers import DiffusionPipeline

    flags = ["--model.train", "full", "--mask.reduction", "sample", "--run.max_train_steps", 3]
    succeed(train(*flags, "--data.dataset", dataset, "--run.output_dir", tmp_path / "run"))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "run")
    trained = load_file(tmp_path / "run/checkpoints/step-00000003/weights.safetensors")
    exported = pipeline.unet.state_dict()
    assert trained.keys() == exported.keys()
    assert all(torch.equal(trained[k], exported[k]) for k in trained)
    base = load_base("nano")
    assert relative_difference(dict(base.unet.state_dict()), trained) > 1e-6
    for part in ("vae", "text_encoder"):
        frozen, now = getattr(base, part).state_dict(), getattr(pipeline, part).state_dict()
        assert all(torch.equal(frozen[k], now[k]) for k in frozen)


def test_the_target_is_what_the_base_predicts(whole, dataset, train, tmp_path):
    # Before the first step the models are the same, so the held-out losses differ by the target alone.
    epsilon = metrics(whole[0])[0]["validation_loss"]
    losses = {}
    for prediction_type in ("v_prediction", "sample"):
        base = tmp_path / prediction_type
        shutil.copytree(resolve_base("nano"), base)
        settings = json.loads((base / "scheduler/scheduler_config.json").read_text())
        settings["prediction_type"] = prediction_type
        (base / "scheduler/scheduler_config.json").write_text(json.dumps(settings))
        flags = ["--model.pretrained_model_name_or_path", base, "--run.max_train_steps", 1, "--noise.snr_gamma", 5]
        succeed(train(*flags, "--data.dataset", dataset, "--run.output_dir", tmp_path / "run" / prediction_type))
        losses[prediction_type] = metrics(tmp_path / "run" / prediction_type)[0]["validation_loss"]
    assert len({round(loss, 3) for loss in (epsilon, *losses.values())}) == 3


@pytest.mark.slow
def test_accelerate_launch_in_bf16_with_pictures(dataset, run_program, tmp_path):
    launcher = [Path(sys.executable).with_name("accelerate"), "launch", "--mixed_precision", "bf16"]
    launcher += ["--config_file", "accelerate_config.yaml", "train_texture.py", "--config", "configs/demo.yaml"]
    launcher += ["--layout.maps", "none", "--layout.init", "null"]
    flags = ["--data.resolution", 64, "--run.max_train_steps", 2, "--validation.num_images", 1]
    flags += ["--validation.num_inference_steps", 2, "--validation.prompts", "[rusty crate]"]
    folders = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    result = succeed(run_program(*launcher, *flags, *folders))
    assert "mixed precision bf16" in result.stdout
    assert load_file(tmp_path / "run" / LORA)  # float32, whatever the run's precision
    assert {t.dtype for t in load_file(tmp_path / "run" / LORA).values()} == {torch.float32}
    picture = np.asarray(Image.open(tmp_path / "run/samples/step-00000002/00-rusty-crate.png"))
    assert picture.shape == (64, 64, 3)
    dimmed = np.asarray(Image.open(tmp_path / "run/samples/step-00000002/00-rusty-crate-dimmed.png"))
    same = (picture == dimmed).all(axis=2)
    assert 0.1 < same.mean() < 0.9  # the band that is mapped, and not the rest
    assert "rusty crate" in (tmp_path / "run/README.md").read_text("utf-8")
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert "Samples over time" in page
    assert page.count("data:image/webp") >= 3
    (events,) = (tmp_path / "run/logs").rglob("events.out.tfevents.*.0")
    assert b"samples/atlas" in events.read_bytes()


def test_dry_run_stops_before_anything_is_written(dataset, train, tmp_path):
    result = succeed(train("--data.dataset", dataset, "--run.output_dir", tmp_path / "run", "--dry_run"))
    assert "learning_rate: 0.0001" in result.stdout
    assert "mean coverage    50.0%" in result.stdout
    assert "trained          adapters of rank 8 on to_q 14, to_k 14, to_v 14, to_out.0 14: " in result.stdout
    cores = os.cpu_count()
    if cores > 1:
        assert f", 1 thread of {cores} cores each; OMP_NUM_THREADS={cores} before the command" in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("run.output_dir", "/proc/run", "run.output_dir: /proc/run cannot be written ("),
        ("optim.name", "adamw8bit", "optim.name: adamw8bit needs bitsandbytes, which cannot be imported (not here)"),
        ("lora.target_modules", "[to_q,to_w]", "lora.target_modules: to_w is the name of no layer"),
    ],
)
def test_dry_run_finds_what_would_stop_the_run_later(key, value, said, dataset, train, tmp_path):
    (tmp_path / "bitsandbytes.py").write_text("raise ImportError('not here')")
    flags = {"data.dataset": dataset, "run.output_dir": tmp_path / "run"} | {key: value}
    words = [word for name, given in flags.items() for word in (f"--{name}", given)]
    result = train(*words, "--dry_run", PYTHONPATH=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"train_texture.py: error: {said}")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_advice_after_a_loss_that_is_not_finite_works(dataset, train, tmp_path):
    flags = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run", "--run.max_train_steps", 4]
    flags += ["--run.checkpointing_steps", 1]
    failed = train(*flags, "--optim.learning_rate", 1e30)
    assert failed.returncode == 2
    assert (tmp_path / "run/checkpoints/step-00000001").is_dir()
    line = failed.stderr.splitlines()[-1]
    assert "or lower optim.learning_rate, and start over with --run.resume never" in line
    succeed(train(*flags, "--optim.learning_rate", 1e-4, "--run.resume", "never"))
    assert (tmp_path / "run-2" / LORA).is_file()
