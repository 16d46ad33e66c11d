"""Runs with settings of the objective, as a user starts them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from texdiff.inference.sampler import load_pipeline
from texdiff.models.base import resolve_base
from texdiff.models.lora_files.load import add_lora
from texdiff.training.run.state_file import read_state

LORA = "pytorch_lora_weights.safetensors"
WORKER = Path(__file__).parents[2] / "support/several_runs.py"
QUICK = ["--data.resolution", 64, "--validation.num_images", 0, "--run.report_to", "none", "--run.train_batch_size", 2]
QUICK += ["--run.checkpointing_steps", 1, "--optim.learning_rate", 1e-3]
ERRORS = ("error_inside", "error_border", "error_outside")


@pytest.fixture(scope="module")
def several_runs(run_program):
    def run(*runs: list[object]) -> str:
        words = json.dumps([[str(word) for word in [*QUICK, *words]] for words in runs])
        result = run_program(sys.executable, WORKER, words, OMP_NUM_THREADS="1")
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    return run


def test_inverted_masks_are_said_and_a_loss_that_is_not_finite_stops_the_run(make_dataset, train, tmp_path):
    folder = make_dataset(tmp_path / "dataset", [0.3, 0.45, 0.6, 0.7, 0.3, 0.5, 0.7, 0.8, 0.5], held_out=1)
    for path in sorted(folder.glob("*/masks/*.png")):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    run = tmp_path / "run"
    flags = ["--run.max_train_steps", 4, "--run.checkpointing_steps", 1, "--optim.learning_rate", 1e30]
    result = train(*flags, "--data.dataset", folder, "--run.output_dir", run)
    assert "warning: the masks look inverted: 8 of 8 textures vary more outside the mask than inside" in result.stdout
    assert "latent masks     nearest drop" in result.stdout
    assert json.loads((run / "masks.json").read_text())["inverted"] == 8

    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("train_texture.py: error: step 2: the loss of ")
    assert str(folder) in last
    assert "is not finite, so the run stops before it learns from it" in last
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000001"]
    weights = load_file(run / "checkpoints/step-00000001/weights.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    assert not (run / LORA).exists()
    before, first = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    assert before["step"] == 0
    assert before["validation_loss"] > 0
    for line in (before, first):
        # A band at the bottom of the picture: its upper edge may lie within a row of cells, or not.
        assert line["error_inside"] > 0
        assert line["error_outside"] > 0


@pytest.mark.slow
def test_an_average_is_exported_and_a_stopped_run_goes_on_with_it(dataset, several_runs, tmp_path):
    extra = ["--data.dataset", dataset, "--optim.use_ema", "true", "--optim.ema_decay", 0.5]
    extra += ["--mask.outside", "base_model", "--noise.timestep_sampling", "stratified"]
    folders = [["--run.output_dir", tmp_path / name] for name in ("whole", "stopped")]
    to_the_end = ["--run.max_train_steps", 4]
    several_runs([*extra, *folders[0], *to_the_end], [*extra, *folders[1], "--run.max_train_steps", 2])
    assert "continues from" in several_runs([*extra, *folders[1], *to_the_end])
    whole, stopped = (load_file(tmp_path / name / LORA) for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys()
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "stopped")]
    whole_lines, stopped_lines = ([json.loads(text) for text in some] for some in lines)
    for line in (*whole_lines, *stopped_lines):
        [line.pop(f"{what}_per_second", None) for what in ("images", "covered_cells")]
    at_steps = [line for line in stopped_lines if line["step"] != 2 or "loss" in line]  # validated at its first end too
    assert at_steps == whole_lines

    checkpoint = tmp_path / "whole/checkpoints/step-00000004"
    trained = load_file(checkpoint / "weights.safetensors")
    average = read_state(checkpoint / "state.safetensors")["ema"]["shadow_params"]
    exported = sorted(tensor.flatten().tolist() for tensor in whole.values())
    assert exported == sorted(tensor.flatten().tolist() for tensor in average)
    assert exported != sorted(tensor.flatten().tolist() for tensor in trained.values())


@pytest.mark.slow
def test_a_zero_terminal_schedule_goes_into_what_is_exported(dataset, several_runs, tmp_path):
    from diffusers import DiffusionPipeline

    base = Path(shutil.copytree(resolve_base("nano"), tmp_path / "base"))
    file = base / "scheduler/scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": "v_prediction"}))
    common = ["--data.dataset", dataset, "--model.pretrained_model_name_or_path", base, "--run.max_train_steps", 1]
    rescaled = [*common, "--noise.rescale_betas_zero_snr", "true"]
    several_runs(
        [*common, "--run.output_dir", tmp_path / "plain"],
        [*rescaled, "--run.output_dir", tmp_path / "lora"],
        [*rescaled, "--run.output_dir", tmp_path / "full", "--model.train", "full"],
    )
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "full")
    assert pipeline.scheduler.config.rescale_betas_zero_snr
    assert pipeline.scheduler.config.timestep_spacing == "trailing"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    with safe_open(tmp_path / "lora" / LORA, "pt") as one, safe_open(tmp_path / "plain" / LORA, "pt") as other:
        assert [file.metadata()["ss_zero_terminal_snr"] for file in (one, other)] == ["True", "False"]
    for name, expected in (("lora", True), ("plain", False)):
        pipeline = load_pipeline(str(base))
        add_lora(pipeline, tmp_path / name)
        assert bool(pipeline.scheduler.config.get("rescale_betas_zero_snr")) == expected
    # Before the first step the models are the same: the held-out losses differ by the schedule.
    first = [
        json.loads((tmp_path / n / "metrics.jsonl").read_text().splitlines()[0]) for n in ("plain", "lora", "full")
    ]
    assert first[0]["validation_loss"] != pytest.approx(first[1]["validation_loss"], rel=1e-3)
    assert first[1]["validation_loss"] == pytest.approx(first[2]["validation_loss"], rel=1e-6)
