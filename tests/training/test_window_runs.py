"""Runs on windows of atlases, as a user starts them."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

FLAGS = ["--data.resolution", 64, "--data.source_resolution", 160, "--data.scales", "[1, 0]", "--lora.rank", 2]
FLAGS += ["--run.checkpointing_steps", 2, "--validation.num_images", 0, "--run.report_to", "none"]
LORA = "pytorch_lora_weights.safetensors"


def metrics(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.endswith("_per_second")} for line in lines]


@pytest.fixture(scope="module")
def start(make_dataset, run_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    dataset = make_dataset(folder / "dataset", [0.3, 1.0, 0.08, 0.6, 0.4], held_out=1, size=160)

    def start(name, *flags, ranks=1):
        ranked = ["-m", "torch.distributed.run", "--nproc_per_node", ranks] if ranks > 1 else []
        command = [sys.executable, *ranked, "train_texture.py", *FLAGS, "--data.dataset", dataset]
        command += ["--data.cache_dir", folder / "cache", "--run.output_dir", folder / name, *flags]
        result = run_program(*command, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true")
        assert result.returncode == 0, result.stderr
        return folder / name, result.stdout

    return start


@pytest.fixture(scope="module")
def whole(start):
    return start("whole", "--run.max_train_steps", 4, "--run.train_batch_size", 4)


def test_a_run_says_what_it_is_cut_from_and_what_it_saw(whole):
    run, said = whole
    assert "windows          64 px of atlases of up to 160 px, at 1, 0 times their size" in said
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(line["covered_cells_per_second"] > 0 for line in lines if "loss" in line)
    assert np.asarray(Image.open(run / "first_batch.png")).shape == (4 * 64 + 3 * 8, 3 * 64 + 2 * 8, 3)


def test_a_stopped_run_goes_on_bit_for_bit(whole, start):
    start("stopped", "--run.max_train_steps", 2, "--run.train_batch_size", 4)
    run, _ = start("stopped", "--run.max_train_steps", 4, "--run.train_batch_size", 4)
    one, other = load_file(whole[0] / LORA), load_file(run / LORA)
    assert all(torch.equal(one[name], other[name]) for name in one)
    losses = [[line["loss"] for line in metrics(folder) if "loss" in line] for folder in (whole[0], run)]
    assert losses[0] == losses[1]


def test_two_ranks_of_two_micro_batches_learn_what_one_batch_does(whole, start):
    run, _ = start("ranks", "--run.max_train_steps", 4, "--run.gradient_accumulation_steps", 2,
                   "--run.train_batch_size", 1, ranks=2)  # fmt: skip
    for mine, theirs in zip(metrics(whole[0]), metrics(run), strict=True):
        assert mine.keys() == theirs.keys()
        for name in ("loss", "validation_loss", "grad_norm", "coverage", "error_inside"):
            if name in mine:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4), name
