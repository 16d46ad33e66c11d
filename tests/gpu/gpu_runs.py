"""A run of train_texture.py in this process, and what it left behind."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # train_texture.py is no part of the package
ON_CPU = os.environ.get("TEXDIFF_TEST_GPU_ON_CPU") == "1"
DEVICE = "cpu" if ON_CPU else "cuda"
RESOLUTION = 128
QUICK = ["--data.resolution", RESOLUTION, "--validation.num_images", 0, "--run.report_to", "none"]
QUICK += ["--run.checkpointing_steps", 1, "--run.checkpoints_total_limit", 99, "--optim.learning_rate", 1e-3]


@dataclass(frozen=True)
class Finished:
    """A run that came to its end."""

    folder: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text("utf-8").splitlines()]

    def of_steps(self, name: str = "loss") -> list[float]:
        return [line[name] for line in self.lines if "loss" in line]

    def held_out(self) -> dict[int, float]:
        return {line["step"]: line["validation_loss"] for line in self.lines if "validation_loss" in line}

    def weights(self, step: int) -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"checkpoints/step-{step:08d}/weights.safetensors")

    def state(self, step: int) -> dict[str, Any]:
        from texdiff.training.run.state_file import read_state

        return read_state(self.folder / f"checkpoints/step-{step:08d}/state.safetensors")

    def first_gradient(self) -> torch.Tensor:
        """Of step 1, from Adam's first moment, which is then (1 − β₁) · g."""
        moments = self.state(1)["optimizer"]["state"].values()
        return torch.cat([entry["exp_avg"].double().flatten() / 0.1 for entry in moments])


def train_here(dataset: Path, folder: Path, *flags: object, precision: str = "no", device: str = DEVICE) -> Finished:
    """train_texture.py without a process of its own: the libraries take longer to import than these runs to train."""
    from accelerate.state import AcceleratorState, GradientState

    import train_texture

    words = [*QUICK, "--data.dataset", dataset, "--run.output_dir", folder, *flags]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        patch.setenv("ACCELERATE_USE_CPU", str(device == "cpu").lower())
        patch.setattr(sys, "argv", ["train_texture.py", *map(str, words)])
        try:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            train_texture.main()
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
    return Finished(folder)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return float((one.double() - other.double()).norm() / other.double().norm())


def flat(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensors[name].double().flatten() for name in sorted(tensors)])
