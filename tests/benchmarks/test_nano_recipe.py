"""The recipe that trains `nano` runs from nothing to a pipeline folder, and continues where it was stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY))  # benchmarks are no part of the package

from benchmarks.nano import loop, pool  # noqa: E402
from benchmarks.nano.phrases import Phrases  # noqa: E402
from texdiff.models.nano import clip_tokenizer  # noqa: E402


def begin(home: Path, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", *arguments]
    return subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(home: Path, *arguments: str) -> str:
    done = begin(home, *arguments)
    out, err = done.communicate()
    assert done.returncode == 0, err
    return out


def train(home: Path, *arguments: str) -> str:
    """Some steps, ended by SIGTERM."""
    training = begin(home, *arguments, "--seconds", "100000")
    out = ""
    for line in training.stdout:
        out += line
        if "begins" in line:
            break
    training.terminate()
    rest, err = training.communicate()
    assert training.returncode == 128 + signal.SIGTERM, err
    return out + rest


@pytest.mark.slow
def test_recipe(tmp_path):
    vae = ["benchmarks.nano.train_vae", "--synthetic", "4", "--batch", "2", "--side", "32"]
    train(tmp_path, *vae)
    made = tmp_path / "outputs/nano"
    first = torch.load(made / "vae.pt")["step"]
    assert f"goes on from step {first}" in train(tmp_path, *vae)
    assert torch.load(made / "vae.pt")["step"] > first
    assert "no time left" in run(tmp_path, *vae, "--seconds", "0.001")
    (made / "vae-training.pt").unlink()  # the short file is enough to go on
    train(tmp_path, *vae)
    unet = ["benchmarks.nano.train_unet", "--samples", "12", "--batch", "4"]
    train(tmp_path, *unet)
    step = torch.load(made / "unet.pt")["step"]
    assert f"goes on from step {step}" in train(tmp_path, *unet)
    run(tmp_path, "benchmarks.nano.export", "--folder", "nano")
    sizes = {p: p.stat().st_size for p in (tmp_path / "nano").rglob("*.safetensors")}
    net = sizes.pop(tmp_path / "nano/controlnet/diffusion_pytorch_model.safetensors")
    assert 8e6 < sum(sizes.values()) <= 16e6
    assert net <= 6e6
    from safetensors.torch import load_file

    shipped = load_file(tmp_path / "nano/unet/diffusion_pytorch_model.safetensors")
    average = torch.load(made / "unet-training.pt")["average"]
    assert torch.equal(shipped["conv_in.weight"], average["unet.conv_in.weight"].half())


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """Files in a folder of their own, and seconds counted from now."""
    monkeypatch.setattr(loop, "OUT", tmp_path)
    monkeypatch.setattr(loop, "REPORT_SECONDS", 0.05)
    handler = signal.getsignal(signal.SIGTERM)

    def begin_again():
        monkeypatch.setattr(loop, "_started", time.monotonic())
        monkeypatch.setattr(loop, "_processor_before", time.process_time())

    yield begin_again
    signal.signal(signal.SIGTERM, handler)


def line_training(peak=0.05):
    torch.manual_seed(0)
    return loop.Training("line", nn.Linear(3, 1), "cpu", peak, weight_decay=0.0, average_decay=0.9)


def line_objective(training):
    def objective():
        x = torch.randn(16, 3)
        error = (training.working(x)[:, 0] - x @ torch.tensor([1.0, -2.0, 3.0])).square().mean()
        return error, error

    return objective


def test_training_ends_in_time_and_goes_on(clock):
    training = line_training()
    clock()
    assert training.run(line_objective(training), 1.0, 16, str) == 0
    assert 1.0 <= loop.spent("cpu") < 5.0
    assert training.current < 0.002  # annealed
    again = line_training()
    assert again.step == training.step > 20
    assert torch.equal(again.average.weight, training.average.weight)
    clock()
    again.run(line_objective(again), 2.0, 16, str)
    assert again.step > training.step
    assert torch.allclose(again.average.weight, torch.tensor([[1.0, -2.0, 3.0]]), atol=1e-2)


def test_a_loss_that_is_not_finite_costs_the_steps_since_the_last_save_only(clock, monkeypatch, capsys):
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0)
    training = line_training()
    clock()
    objective, calls = line_objective(training), iter(range(10**9))

    def broken():
        loss, error = objective()
        return (loss * torch.nan, error * torch.nan) if next(calls) == 30 else (loss, error)

    training.run(broken, 1.5, 16, str)
    assert "not finite" in capsys.readouterr().out
    assert torch.allclose(training.average.weight, torch.tensor([[1.0, -2.0, 3.0]]), atol=0.5)


def test_crops_are_windows_of_the_pictures_in_any_orientation(monkeypatch):
    monkeypatch.setattr(pool, "EXCHANGED", 0)
    picture, side = np.full((40, 256, 3), 255, np.uint8), 24
    picture[..., 0], picture[..., 1] = np.mgrid[:40, :256]
    crops = pool.Pool([(picture, 1.0)], "cpu").draw(64, side)
    assert crops.shape == (64, 3, side, side)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    seen = set()
    texels = ((crops + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    for crop in texels:
        turned = [np.rot90(c, k) for c in (crop, crop[:, ::-1]) for k in range(4)]
        found = [
            i for i, t in enumerate(turned) if np.array_equal(t, picture[t[0, 0, 0] :, t[0, 0, 1] :][:side, :side])
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) == 8


def test_exchanged_channels(monkeypatch):
    monkeypatch.setattr(pool, "EXCHANGED", 1)
    crops = pool.Pool([(np.full((256, 256, 3), (0, 100, 200), np.uint8), 1.0)], "cpu").draw(64, 8)
    orders = {tuple(((crop[:, 0, 0] + 1) * 127.5).round().int().tolist()) for crop in crops}
    assert orders == {(0, 200, 100), (100, 0, 200), (100, 200, 0), (200, 0, 100), (200, 100, 0)}


def test_a_crop_beyond_the_picture_is_mirrored():
    picture = np.arange(8 * 256 * 3, dtype=np.int64).reshape(8, 256, 3) % 251
    crop = pool.Pool([(picture.astype(np.uint8), 1.0)], "cpu").draw(1, 16)[0]
    assert torch.equal(crop.flatten().sort().values[::2], crop.flatten().sort().values[1::2])  # every texel twice


def test_phrases_are_the_captions_and_one_in_ten_empty(tmp_path):
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(tmp_path)
    drawn = Phrases(["red brick", "blue cloth", "red brick"], tokenizer, "cpu").draw(torch.tensor([2] * 2000))
    texts = tokenizer.batch_decode(drawn, skip_special_tokens=True)
    assert {text for text in texts if text} >= {"red brick", "red brick texture", "a texture of red brick"}
    assert all("red brick" in text for text in texts if text)
    assert 0.07 < texts.count("") / 2000 < 0.13
    assert 0.60 < texts.count("red brick") / 2000 < 0.70
