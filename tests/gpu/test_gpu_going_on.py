"""Runs that were stopped or killed go on, to the bit where kernels are repeatable; and what is saved fits a CPU."""

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gpu_runs import QUICK, Finished, flat, train_here

WORKER = Path(__file__).with_name("killed_run.py")
STATEFUL = ["--optim.use_ema", "true", "--optim.lr_scheduler", "cosine", "--lora.dropout", 0.2]


@pytest.fixture
def repeatable() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def compare_states(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        if isinstance(one[name], dict):
            compare_states(one[name], other[name])
        elif isinstance(one[name], list):
            compare_states(dict(enumerate(one[name])), dict(enumerate(other[name])))
        elif isinstance(one[name], torch.Tensor):
            assert torch.equal(one[name], other[name]), name
        else:
            assert one[name] == other[name], name


def test_a_run_that_was_killed_goes_on_bit_for_bit(demo, run_program, tmp_path, repeatable):
    flags = [*QUICK, "--data.dataset", demo, *STATEFUL, "--run.max_train_steps", 5, "--run.checkpointing_steps", 2]
    here = {"ACCELERATE_MIXED_PRECISION": "bf16", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, WORKER]
    killed = run_program(*command, 3, *flags, "--run.output_dir", tmp_path / "run", **here)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    resumed = run_program(*command, "never", *flags, "--run.output_dir", tmp_path / "run", **here)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "continues from" in resumed.stdout
    whole = train_here(demo, tmp_path / "whole", *STATEFUL, "--run.max_train_steps", 5, precision="bf16")
    again = Finished(tmp_path / "run")
    assert again.of_steps() == whole.of_steps()
    assert again.held_out() == whole.held_out()
    assert torch.equal(flat(again.weights(5)), flat(whole.weights(5)))
    compare_states(again.state(5), whole.state(5))


@pytest.mark.parametrize("precision", ["no", pytest.param("fp16", marks=pytest.mark.needs_cuda)])
def test_a_stopped_run_goes_on_bit_for_bit(precision, demo, tmp_path, repeatable):
    """With float16 so does the scaler."""
    whole = train_here(demo, tmp_path / "whole", *STATEFUL, "--run.max_train_steps", 4, precision=precision)
    # As far as its second step, since the cosine is stretched to the length.
    stopped = Path(shutil.copytree(whole.folder, tmp_path / "stopped"))
    for step in (3, 4):
        shutil.rmtree(stopped / f"checkpoints/step-{step:08d}")
    again = train_here(demo, stopped, *STATEFUL, "--run.max_train_steps", 4, precision=precision)
    assert again.of_steps() == whole.of_steps()
    assert torch.equal(flat(again.weights(4)), flat(whole.weights(4)))
    compare_states(again.state(4), whole.state(4))


def test_the_gpus_checkpoint_goes_on_on_the_cpu(demo, tmp_path, true_float32):
    flags = ["--optim.use_ema", "true", "--data.cache_dir", tmp_path / "cache", "--run.max_train_steps"]
    train_here(demo, tmp_path / "gpu", *flags, 2)
    copied = Path(shutil.copytree(tmp_path / "gpu", tmp_path / "cpu"))
    there = train_here(demo, copied, *flags, 3, device="cpu")
    here = train_here(demo, Path(shutil.copytree(tmp_path / "gpu", tmp_path / "again")), *flags, 3)
    assert there.of_steps() == pytest.approx(here.of_steps(), rel=1e-4)
    assert there.held_out()[3] == pytest.approx(here.held_out()[3], rel=1e-4)
