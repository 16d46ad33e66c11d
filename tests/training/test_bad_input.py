"""Training on what cannot be trained on: one line, exit code 2, nothing half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from texdiff.errors import InputError
from texdiff.models.base import load_base


def spoil_empty_mask(folder: Path) -> None:
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "train/masks/1.png")


def spoil_picture(folder: Path) -> None:
    (folder / "train/textures/1.png").write_bytes(b"GIF89a nothing")


def spoil_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_empty_mask, "1.png: the mask is empty"),
        (spoil_picture, "1.png: the texture"),
        (spoil_folder, "cannot be read as a folder or from the hub"),
    ],
)
def test_a_spoilt_dataset(spoil, said, dataset, train, tmp_path):
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    spoil(copy)
    result = train("--data.dataset", copy, "--run.output_dir", tmp_path / "run", "--run.max_train_steps", 1)
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert lines[0].startswith("train_texture.py: error: ")
    assert said in lines[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # it is tried again and again
def test_a_hub_that_cannot_be_reached():
    with pytest.raises(InputError, match="someone/unreachable: cannot be loaded"):
        load_base("someone/unreachable")


def test_a_base_that_is_none(tmp_path):
    base = tmp_path / "base"
    for name in (str(base), "word", "a/b/c"):
        with pytest.raises(InputError, match="no such folder or file, and not a hub id"):
            load_base(name)
    base.mkdir()
    with pytest.raises(InputError, match=r"has no model_index\.json"):
        load_base(str(base))
    (base / "model_index.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_base(str(base))
    (base / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(InputError, match="is a FluxPipeline"):
        load_base(str(base))
    (base / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        with pytest.raises(InputError, match=f"has no {part} that can be loaded"):
            getattr(load_base(str(base)), part)
