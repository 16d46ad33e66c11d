"""Layout gain: its interval, and the figure of a run's own validation."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from texdiff.evaluation.layout_gain import gain_figures, ratio_interval
from texdiff.training.validation import HeldOutErrors


def test_with_equal_sizes_the_interval_is_that_of_a_mean():
    sums = np.random.default_rng(0).normal(3.0, 2.0, 12)
    known = scipy.stats.ttest_1samp(sums / 5, 0).confidence_interval(0.95)
    assert ratio_interval(sums, np.full(12, 5.0)) == pytest.approx((sums.mean() / 5, known.low, known.high))


def test_the_interval_covers_the_ratio_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        sizes = rng.uniform(5, 60, 40)
        low, high = ratio_interval(sizes * rng.normal(0.02, 0.05, 40), sizes)[1:]
        covered += low <= 0.02 <= high
    assert 0.925 < covered / 2000 < 0.965


def test_gains_are_paired_and_by_timestep():
    own, cells = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([10.0, 30.0])
    errors = {"times": torch.tensor([250, 750]), "own": own, "regions": torch.zeros(2, 3), "cells": cells}
    same = HeldOutErrors(**errors, other=None)
    assert gain_figures(same) is None
    assert "layout_gain" not in same.figures()
    found = HeldOutErrors(**errors, other=own + torch.tensor([[0.5, 1.0], [1.5, 3.0]]))
    said, figures = gain_figures(found), found.figures()
    assert said["gain"] == pytest.approx((2.0 + 4.0) / 2 / 40)
    assert [one["gain"] for one in said["by_timestep"]] == pytest.approx([0.05, 0.1])
    assert [one["low"] for one in said["by_timestep"]] == pytest.approx([0.05, 0.1])  # the same gain for each cell
    assert figures["layout_gain"] == pytest.approx(said["gain"])
    assert [figures["layout_gain_t250"], figures["layout_gain_t750"]] == pytest.approx([0.05, 0.1])


@pytest.mark.slow
def test_evaluate_finds_the_gain_that_validation_found(dataset: Path, train: Any, run_program: Any, tmp_path: Path):
    run = tmp_path / "run"
    flags = ["--model.train", "controlnet", "--layout.maps", "mask", "--layout.learning_rate", 1e-2]
    done = train(*flags, "--run.max_train_steps", 6, "--data.dataset", dataset, "--run.output_dir", run)
    assert done.returncode == 0, done.stderr
    command = [Path(sys.executable).with_name("texdiff"), "evaluate", run, "--dataset", dataset, "--num_images", 3]
    done = run_program(*command, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "layout gain (95 % interval)" in done.stdout
    said = json.loads((run / "evaluation.json").read_text("utf-8"))["layout_gain"]
    last = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()][-1]
    assert said["gain"] == pytest.approx(last["layout_gain"], rel=1e-3, abs=1e-8)
    assert abs(said["gain"]) > 1e-6
    assert said["low"] < said["gain"] < said["high"]
