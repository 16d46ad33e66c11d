"""Optimizers of packages of their own: asked for in one line, kept to the bit, and with what each of them wants."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from texdiff.config import DataConfig, LayoutConfig, ModelConfig, OptimConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.training.ema import make_ema
from texdiff.training.optimizer import check_installed, make_lr_scheduler, make_optimizer, step_size
from texdiff.training.run.state_file import read_state, write_state

PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt", "schedule_free_adamw": "schedulefree"}
TARGET = torch.linspace(-1, 2, 12).view(3, 4)


def settings(name: str, **more: Any) -> OptimConfig:
    return OptimConfig(name=name, learning_rate=1.0 if name == "prodigy" else 0.02, **more)


def step(optimizer: Optimizer, parameter: Parameter) -> float:
    """One of a quadratic; its value before."""
    loss = (parameter - TARGET).square().sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_missing_is_named_in_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = PACKAGES[name]
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    said = rf"^optim\.name: {name} needs {package}, .*; pip install {package}, or use adamw or adafactor$"
    with pytest.raises(InputError, match=said):
        check_installed(name)
    with pytest.raises(InputError, match=said):
        make_optimizer(settings(name), [Parameter(torch.zeros(3))])
    check_installed("adamw")


@pytest.mark.parametrize("name", ["prodigy", "schedule_free_adamw"])
def test_the_state_continues_to_the_bit(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(PACKAGES[name])
    ways = []
    for stops in (False, True):
        parameter = Parameter(torch.zeros(3, 4))
        optimizer = make_optimizer(settings(name), [parameter])
        ema = make_ema(settings(name), [parameter], optimizer)
        values = [step(optimizer, parameter) for _ in range(5)]
        if stops:
            with ema.averaged():
                pass  # as at a checkpoint, which exports
            write_state({"optimizer": optimizer.state_dict()}, tmp_path / "state.safetensors")
            kept = parameter.detach().clone()
            parameter = Parameter(torch.zeros(3, 4))
            optimizer = make_optimizer(settings(name), [parameter])
            ema = make_ema(settings(name), [parameter], optimizer)
            parameter.data.copy_(kept)
            optimizer.load_state_dict(read_state(tmp_path / "state.safetensors")["optimizer"])
        values += [step(optimizer, parameter) for _ in range(295)]
        with ema.averaged():
            ways.append((values, parameter.detach().clone()))
    (values, weights), (again, weights_again) = ways
    assert values == again
    assert torch.equal(weights, weights_again)
    assert values[-1] < values[0] / 2
    assert capsys.readouterr().out == ""


def test_the_average_of_a_schedule_free_run_is_the_mean_of_its_steps() -> None:
    """x of Defazio et al. 2024, in float64: with a constant learning rate the mean of all z, of which y, where
    gradients are taken, is a mixture."""
    pytest.importorskip("schedulefree")
    parameter = Parameter(torch.zeros(3, 4, dtype=torch.float64))
    config = settings("schedule_free_adamw", weight_decay=0.0)
    optimizer = make_optimizer(config, [parameter])
    ema = make_ema(config, [parameter], optimizer)
    z = x = torch.zeros(3, 4, dtype=torch.float64)
    square = torch.zeros(3, 4, dtype=torch.float64)
    for number in range(1, 8):
        y = 0.1 * z + 0.9 * x
        assert torch.allclose(parameter, y, atol=1e-12)
        gradient = 2 * (y - TARGET)
        square = 0.999 * square + 0.001 * gradient**2
        z = z - 0.02 * gradient / ((square / (1 - 0.999**number)).sqrt() + 1e-8)
        x = x + (z - x) / number
        step(optimizer, parameter)
    own = parameter.detach().clone()
    with ema.averaged():
        assert torch.allclose(parameter, x, atol=1e-12)
    assert torch.equal(parameter, own)
    assert not torch.allclose(own, x, atol=1e-3)


def test_the_step_of_prodigy_is_what_it_has_found() -> None:
    pytest.importorskip("prodigyopt")
    parameter = Parameter(torch.zeros(3, 4))
    optimizer = make_optimizer(settings("prodigy"), [parameter])
    scheduler = make_lr_scheduler(settings("prodigy"), optimizer, 60)
    sizes = []
    for _ in range(300):
        step(optimizer, parameter)
        scheduler.step()
        sizes.append(step_size(optimizer, scheduler))
    assert sizes[0] < 1e-5 < 1e-2 < sizes[-1] < 10
    adamw = make_optimizer(settings("adamw"), [parameter])
    assert step_size(adamw, make_lr_scheduler(settings("adamw"), adamw, 60)) == 0.02


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optim": {"name": "prodigy"}}, r"optim\.learning_rate must be at least 0\.1 .* \(got 0\.0001\); 1 takes"),
        (
            {"optim": {"name": "prodigy", "learning_rate": 1.0}, "layout": {"learning_rate": 0.01}},
            r"layout\.learning_rate",
        ),
        ({"optim": {"name": "schedule_free_adamw", "lr_scheduler": "cosine"}}, r"optim\.lr_scheduler must be constant"),
        ({"optim": {"name": "schedule_free_adamw", "use_ema": True}}, r"optim\.use_ema must be false"),
        (
            {"optim": {"name": "prodigy", "learning_rate": 1.0, "fused_backward_pass": True, "max_grad_norm": None}},
            r"optim\.fused_backward_pass must be false with optim\.name prodigy",
        ),
    ],
)
def test_what_an_optimizer_cannot_do_is_said_in_one_line(given: dict[str, Any], said: str) -> None:
    fused = "fused_backward_pass" in given["optim"]
    layout = {"maps": "mask", **given["layout"]} if "layout" in given else {}
    train = "controlnet" if layout else "full" if fused else "lora"
    with pytest.raises(InputError, match=f"^{said}"):
        TrainingConfig(
            data=DataConfig(dataset="x"),
            model=ModelConfig(train=train),
            optim=OptimConfig(**given["optim"]),
            layout=LayoutConfig(**layout),
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["prodigy", "schedule_free_adamw"])
def test_a_stopped_run_continues_bit_for_bit(name: str, dataset: Path, train: Any, tmp_path: Path) -> None:
    pytest.importorskip(PACKAGES[name])
    rate = 1 if name == "prodigy" else 1e-2
    flags = ["--data.dataset", dataset, "--optim.name", name, "--optim.learning_rate", rate, "--lora.rank", 2]
    flags += ["--run.checkpointing_steps", 3, "--validation.every", 2]
    for run, stops in (("once", [6]), ("twice", [3, 6])):
        for steps in stops:
            done = train(*flags, "--run.output_dir", tmp_path / run, "--run.max_train_steps", steps)
            assert done.returncode == 0, done.stderr[-2000:]
    files = [tmp_path / run / "pytorch_lora_weights.safetensors" for run in ("once", "twice")]
    assert files[0].read_bytes() == files[1].read_bytes()
