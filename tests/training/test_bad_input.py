"""Training on what cannot be trained on: one line, exit code 2, nothing half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def spoil_empty_mask(folder: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "train/masks/1.png")


def spoil_picture(folder: Path) -> None:
    (folder / "train/textures/1.png").write_bytes(b"GIF89a nothing")


def spoil_missing_file(folder: Path) -> None:
    (folder / "train/masks/1.png").unlink()


def spoil_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_empty_mask, "1.png: the mask is empty"),
        (spoil_picture, "1.png: the texture"),
        (spoil_missing_file, "1.png: does not exist"),
        (spoil_folder, "cannot be read as a folder or from the hub"),
    ],
)
def test_a_spoilt_dataset(spoil, said, dataset, train, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    spoil(copy)
    result = train("--data.dataset", copy, "--run.output_dir", tmp_path / "run", "--run.max_train_steps", 1)
    assert_one_line(result, said)
    assert not (tmp_path / "run").exists()


def test_a_base_that_is_none(dataset, train, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    flags = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run", "--model.pretrained_model_name_or_path"]
    assert_one_line(train(*flags, base), "has no model_index.json")
    assert_one_line(train(*flags, "someone/unreachable"), "someone/unreachable: cannot be loaded")
    (base / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert_one_line(train(*flags, base), "is a FluxPipeline")
    (base / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    assert_one_line(train(*flags, base), "has no vae that can be loaded")


def test_a_folder_in_use_and_a_damaged_checkpoint(dataset, train, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "holiday.jpg").write_bytes(b"")
    flags = ["--data.dataset", dataset, "--run.output_dir", run, "--run.max_train_steps", 1]
    assert_one_line(train(*flags), "holds other files and no run")
    (run / "holiday.jpg").unlink()
    assert train(*flags).returncode == 0
    (run / "checkpoints/step-00000001/weights.safetensors").write_bytes(b"0")
    assert_one_line(train(*flags), "step-00000001: is damaged")


def assert_one_line(result, said: str) -> None:
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert lines[0].startswith("train_texture.py: error: ")
    assert said in lines[0]
    assert "Traceback" not in result.stderr
