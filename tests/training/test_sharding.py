"""Full fine-tuning with weights sharded over the ranks (FSDP2): what it trains is what DDP trains."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from ports import free_ports
from safetensors.torch import load_file

from texdiff.models.exports import STATE, WEIGHTS
from texdiff.training.run import Run
from texdiff.training.run.state_file import read_state

ROOT = Path(__file__).parents[2]
FSDP2 = ["ACCELERATE_USE_FSDP=true", "FSDP_VERSION=2"]
ACCUMULATION = "run.gradient_accumulation_steps"
FLAGS = {
    "model.train": "full",
    "data.resolution": 64,
    "run.train_batch_size": 1,
    ACCUMULATION: 2,
    "run.report_to": "none",
    "run.export_checkpoints": "true",
    "run.keep_best": "true",
    "optim.learning_rate": 1e-4,
    "optim.max_grad_norm": 0.1,
    "optim.use_ema": "true",
    "optim.ema_decay": 0.5,
    "validation.every": 2,
    "validation.num_images": 1,
    "validation.num_inference_steps": 2,
}


def arguments(dataset: Path, run: Path, steps: int, **changes: object) -> list[str]:
    settings = FLAGS | {"data.dataset": dataset, "run.output_dir": run, "run.max_train_steps": steps} | changes
    return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


def on_ranks(count: int, *runs: list[str]) -> str:
    """One after another in the same processes; what they said."""
    torchrun = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node", str(count)]
    worker = ["tests/support/several_runs.py", json.dumps(runs), *map(str, free_ports(len(runs)))]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*torchrun, *worker], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def figures(run: Run, key: str) -> dict[int, float]:
    return {line["step"]: line[key] for line in run.metrics() if key in line}


@pytest.mark.slow
def test_sharded_weights_learn_what_whole_ones_do_and_any_number_of_processes_continues(dataset, run_program, tmp_path):
    whole, sharded, alone, on_four = (tmp_path / name for name in ("ddp", "fsdp2", "alone", "four"))
    said = on_ranks(2, arguments(dataset, whole, 4), [*FSDP2, *arguments(dataset, sharded, 2)])
    assert "processes        2 on cpu (DDP), " in said
    assert "processes        2 on cpu (FSDP2), " in said
    for copy in (alone, on_four):
        shutil.copytree(sharded, copy)
    on_ranks(2, [*FSDP2, *arguments(dataset, sharded, 4)])
    said = on_ranks(4, [*FSDP2, *arguments(dataset, on_four, 4, **{ACCUMULATION: 1})])
    assert "processes        4 on cpu (FSDP2), " in said
    result = run_program(sys.executable, "train_texture.py", *arguments(dataset, alone, 4, **{ACCUMULATION: 4}))
    assert result.returncode == 0, result.stderr

    checkpoint = sharded / "checkpoints/step-00000002"
    exported, parts = UNet2DConditionModel.from_pretrained(checkpoint / "unet"), read_state(checkpoint / STATE)
    assert load_file(checkpoint / WEIGHTS).keys() == exported.state_dict().keys()
    for (name, weight), average in zip(exported.named_parameters(), parts["ema"]["shadow_params"], strict=True):
        assert torch.equal(weight, average), name

    expected = Run(whole)
    for run in map(Run, (sharded, on_four, alone)):
        for key in ("loss", "grad_norm", "validation_loss"):
            assert figures(run, key) == pytest.approx(figures(expected, key), rel=2e-4), key
        assert run.best() == pytest.approx(expected.best(), rel=2e-4)
        for folder, same_folder in ((run.folder, whole), (run.best_folder, expected.best_folder)):
            one, other = (UNet2DConditionModel.from_pretrained(place / "unet") for place in (folder, same_folder))
            for (name, weight), same in zip(one.named_parameters(), other.parameters(), strict=True):
                torch.testing.assert_close(weight, same, rtol=1e-3, atol=1e-4, msg=name)
        for step in (0, 2, 4):
            drawn, same = (sorted(p.name for p in one.sample_folder(step).iterdir()) for one in (run, expected))
            assert drawn == same
