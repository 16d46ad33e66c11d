"""Which file a path means: a file, a folder's own, or of a run that is not finished its newest."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from texdiff.errors import InputError
from texdiff.models.lora_files.find import lora_file

LORA = "pytorch_lora_weights.safetensors"


def write(folder: Path, step: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.zeros(1)}, folder / LORA, {"ss_steps": str(step)})
    return folder / LORA


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints after 5 and 10 steps, whose best was after 7; one after 15 has no export."""
    for step in (5, 10):
        write(tmp_path / f"checkpoints/step-{step:08d}", step)
    (tmp_path / "checkpoints/step-00000015").mkdir()
    (tmp_path / "checkpoints/step-old").mkdir()
    write(tmp_path / "best", 7)
    (tmp_path / "best/best.json").write_text(json.dumps({"step": 7, "validation_loss": 0.1}))
    return tmp_path


def test_of_a_run_that_is_not_finished_the_newest_is_taken_and_said(run, capsys):
    assert lora_file(run) == run / "checkpoints/step-00000010" / LORA
    said = f"{run}: not finished; takes what it had after 10 steps, {run}/checkpoints/step-00000010\n"
    assert capsys.readouterr().out == said
    assert lora_file(run / "best") == run / "best" / LORA
    assert lora_file(run / "checkpoints/step-00000005") == run / "checkpoints/step-00000005" / LORA
    assert capsys.readouterr().out == ""


def test_of_a_finished_one_its_own_and_where_there_are_newer_ones_is_said(run, capsys):
    own = write(run, 10)
    assert lora_file(run) == own
    assert capsys.readouterr().out == ""
    write(run, 5)
    assert lora_file(run) == own
    said = f"{run}: takes its export, of step 5; its newest is {run}/checkpoints/step-00000010\n"
    assert capsys.readouterr().out == said


def test_a_step_is_one_that_is_there(run):
    assert lora_file(run, 5) == run / "checkpoints/step-00000005" / LORA
    assert lora_file(run, 7) == run / "best" / LORA
    with pytest.raises(InputError, match=r"^--step 15: .* has no export of that step; there are 5, 7, 10$"):
        lora_file(run, 15)
    own = write(run, 20)
    assert lora_file(run, 20) == own
    with pytest.raises(InputError, match=r"^--step 5: .* is a file, of one step; give the folder of a run$"):
        lora_file(own, 5)


@pytest.mark.parametrize("text", ["", "[]", '{"step": null}', '{"step": []}', "[" * 100_000])
def test_a_damaged_best_is_none(text, run):
    (run / "best/best.json").write_text(text)
    with pytest.raises(InputError, match=r"there are 5, 10$"):
        lora_file(run, 7)


def test_a_run_without_any_export_is_said_so(tmp_path):
    (tmp_path / "checkpoints/step-00000005").mkdir(parents=True)
    with pytest.raises(InputError, match="in it or its checkpoints"):
        lora_file(tmp_path)
    with pytest.raises(InputError, match="there are none"):
        lora_file(tmp_path, 5)
