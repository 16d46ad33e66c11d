"""The gradient of an effective batch does not depend on how it is cut: passes, ranks, or both."""

import json
import sys
from pathlib import Path

import pytest
import torch
from ports import free_ports
from safetensors.torch import load_file

from texdiff.training.run.state_file import read_state

WORKER = Path(__file__).parents[2] / "support/several_runs.py"
STEPS = 3
CUTS = {"1x8": (8, 1), "8x1": (1, 8), "2x4": (4, 1), "2x2x2": (2, 2)}  # samples a pass, passes; 2... is on two ranks
REDUCTIONS = ("texel", "sample")
# Weights that differ between samples by timestep, by coverage (1/64 to 1), and in two terms; an average of the weights.
EVERYTHING = ["--mask.downsample", "area", "--noise.timestep_sampling", "stratified", "--noise.snr_gamma", 5]
EVERYTHING += ["--mask.outside", "base_model", "--mask.unmasked_weight", 0.3, "--mask.pixel_weight", 0.1]
EVERYTHING += ["--optim.use_ema", "true", "--optim.learning_rate", 1e-3, "--optim.max_grad_norm", 1e6]
QUICK = [
    "--data.resolution",
    64,
    "--validation.num_images",
    0,
    "--run.report_to",
    "none",
    "--run.max_train_steps",
    STEPS,
]
QUICK += ["--run.checkpointing_steps", 1, "--run.checkpoints_total_limit", 9]


def checkpoint(run: Path, step: int) -> Path:
    return run / f"checkpoints/step-{step:08d}"


def gradient(run: Path) -> torch.Tensor:
    """Of step 1, from Adam's first moment, which is then (1 − β₁) · g."""
    state = read_state(checkpoint(run, 1) / "state.safetensors")["optimizer"]["state"]
    return torch.cat([entry["exp_avg"].flatten() / 0.1 for entry in state.values()])


def adapters(run: Path) -> torch.Tensor:
    weights = load_file(checkpoint(run, STEPS) / "weights.safetensors")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


def average(run: Path) -> torch.Tensor:
    return torch.cat(
        [p.flatten() for p in read_state(checkpoint(run, STEPS) / "state.safetensors")["ema"]["shadow_params"]]
    )


def losses(run: Path) -> torch.Tensor:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "error_inside", "error_border", "error_outside", "loss/large", "loss/small", "share/small")
    return torch.tensor([[line[name] for name in names] for line in lines if "loss" in line], dtype=torch.float64)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other.double()).norm() / one.double().norm())


@pytest.mark.slow
def test_however_an_effective_batch_is_cut_it_gives_the_same(make_dataset, run_program, tmp_path):
    # Six and three textures of two sources, so that epochs and blocks end within batches.
    large = make_dataset(tmp_path / "large", [0.02, 1.0, 0.3, 0.9, 0.15, 0.6])
    small = make_dataset(tmp_path / "small", [0.05, 0.5, 0.2])
    dataset = f"[{{path: {large}, weight: 3}}, {{path: {small}, weight: 2, loss_weight: 0.5}}]"

    def words(cut: str, reduction: str) -> list[str]:
        size, passes = CUTS[cut]
        flags = ["--data.dataset", dataset, "--run.output_dir", tmp_path / f"{cut}-{reduction}"]
        flags += ["--run.train_batch_size", size, "--run.gradient_accumulation_steps", passes]
        return [str(word) for word in [*QUICK, *EVERYTHING, *flags, "--mask.reduction", reduction]]

    for ranks, cuts in ((1, ("1x8", "8x1")), (2, ("2x4", "2x2x2"))):
        runs = json.dumps([words(cut, reduction) for cut in cuts for reduction in REDUCTIONS])
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", ranks] if ranks > 1 else []
        command = [sys.executable, *launcher, WORKER, runs, *free_ports(4)]
        result = run_program(*command, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
        assert result.returncode == 0, result.stderr[-3000:]
        assert f"{ranks} on cpu" in result.stdout

    figures = {"gradient": gradient, "adapters": adapters, "average": average, "losses": losses}
    most = dict.fromkeys(figures, 0.0)
    for reduction in REDUCTIONS:
        for name, of in figures.items():
            whole = of(tmp_path / f"1x8-{reduction}")
            for cut in CUTS:
                most[name] = max(most[name], difference(whole, of(tmp_path / f"{cut}-{reduction}")))
    print(most)
    assert most["gradient"] < 1e-5
    assert most["losses"] < 1e-5
    assert most["adapters"] < 1e-4  # Adam divides by the gradient's size, and so makes much of noise where it is small
    assert most["average"] < 1e-4
    one, other = (gradient(tmp_path / f"1x8-{reduction}") for reduction in REDUCTIONS)
    assert difference(one, other) > 0.05  # else the comparison would say nothing
    one, other = (of(tmp_path / "1x8-texel").sort().values for of in (average, adapters))  # they differ in order too
    assert difference(one, other) > 1e-4
