"""Figures of a run: what a line says, and which lines a resumed run keeps."""

import json
import sys

import pytest
import torch

from texdiff.config import DataConfig, RunConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.metrics_log import MetricsLog, error_figures

CONFIG = TrainingConfig(data=DataConfig(dataset="x"), run=RunConfig(report_to="none"))


def test_regions_without_cells_have_no_error():
    figures = error_figures([6.0, 0.0, float("inf"), 3.0, 0.0, 2.0])
    assert figures == {"error_inside": 2.0, "error_border": None, "error_outside": None}


def test_figures_after_the_checkpoint_and_a_torn_line_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 3)]
    path.write_text(
        "\n".join([*lines[:2], json.dumps({"step": 2, "validation_loss": 1.0}), lines[2]]) + '\n{"step": 4, "lo'
    )
    log = MetricsLog(Run(tmp_path), Parallel(cpu=True), 4, CONFIG)
    log.drop_after(2)
    assert (log.validated, log.held_out_losses) == ({2}, {2: 1.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 2]
    path.write_bytes(b"\0" * 100)  # what a journal may leave of a file when the power goes
    log.drop_after(2)
    assert path.read_bytes() == b""


def test_steps_are_counted_and_the_last_figures_written(tmp_path):
    log = MetricsLog(Run(tmp_path), Parallel(cpu=True), 4, CONFIG)
    for step in log.steps(3, 15):
        log.finite.add(torch.ones(2), ["a", "b"])
        log.finite.check(step, torch.ones(()))
        log.add(step, torch.tensor(0.5), torch.ones(2, 3), learning_rate=0.1)
        if step == 14:
            assert [line["step"] for line in Run(tmp_path).metrics()] == list(range(4, 14))  # a block of ten
    log.flush()
    lines = Run(tmp_path).metrics()
    assert [line["step"] for line in lines] == list(range(4, 16))
    assert lines[-1].items() >= {"samples_seen": 60, "loss": 0.5, "error_inside": 1.0, "learning_rate": 0.1}.items()
    assert lines[-1]["images_per_second"] > 0


def test_a_tracker_that_cannot_be_had_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = TrainingConfig(data=DataConfig(dataset="x"), run=RunConfig(report_to="wandb"))
    with pytest.raises(InputError, match=r"^run.report_to: wandb cannot start \(.*\); install it"):
        MetricsLog(Run(tmp_path), Parallel(cpu=True), 4, config)
