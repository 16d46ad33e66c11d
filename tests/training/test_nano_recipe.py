"""The recipe that trains `nano` runs from nothing to a pipeline folder, and continues where it was stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[2]


def run(home: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_recipe(tmp_path):
    vae = ["benchmarks.nano.train_vae", "--synthetic", "4", "--batch", "4", "--side", "32"]
    run(tmp_path, *vae, "--steps", "2")
    run(tmp_path, *vae, "--steps", "3")
    assert torch.load(tmp_path / "outputs/nano/vae.pt")["step"] == 3
    unet = ["benchmarks.nano.train_unet", "--looks", "8", "--batch", "4"]
    run(tmp_path, *unet, "--steps", "2")
    run(tmp_path, *unet, "--steps", "3")
    state = torch.load(tmp_path / "outputs/nano/unet.pt")
    assert state["step"] == 3
    run(tmp_path, "benchmarks.nano.export", "--folder", "nano")
    size = sum(p.stat().st_size for p in (tmp_path / "nano").rglob("*") if p.is_file())
    assert 8e6 < size <= 16e6
    from safetensors.torch import load_file

    shipped = load_file(tmp_path / "nano/unet/diffusion_pytorch_model.safetensors")
    name = "conv_in.weight"
    assert torch.equal(shipped[name], state["average"][f"unet.{name}"].half())
