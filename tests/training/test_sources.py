"""Runs on several sources: their shares, their losses, and a run that was killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from texdiff.config import DataConfig, MaskConfig, SourceConfig, TrainingConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.prepare import prepare_dataset
from texdiff.data.records import read_sources
from texdiff.errors import InputError
from texdiff.models.family import load_family
from texdiff.training.objective import Objective
from texdiff.training.parallel import Parallel

QUICK = ["--validation.num_images", 0, "--run.train_batch_size", 4, "--run.max_train_steps"]
COLUMNS = ("image", "mask", "text", None)


@pytest.fixture(scope="module")
def pair(make_dataset, tmp_path_factory):
    """Two datasets, with two and one textures held out."""
    root = tmp_path_factory.mktemp("pair")
    make_dataset(root / "cups", [0.1, 1.0, 0.3, 0.9, 0.5, 0.2], held_out=2)
    make_dataset(root / "bowls", [0.4, 0.7, 0.2, 0.8], held_out=1)
    return root


def mixed(root: Path, *keys: str) -> str:
    paths = zip((root / "cups", root / "bowls"), keys, strict=True)
    return "[" + ", ".join(f"{{path: {path}, {key}}}" for path, key in paths) + "]"


def lines_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.endswith("_per_second")} for line in lines]


@pytest.mark.slow
def test_shares_are_said_and_logged_and_captions_have_their_prefix(train, pair, tmp_path):
    dataset = mixed(pair, "weight: 3", 'weight: 1, caption_prefix: "a toy,", loss_weight: 0.5')
    flags = ["--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    result = train(*QUICK, 4, *flags)
    assert result.returncode == 0, result.stderr
    assert "source           cups: 75.0% of visits (4 textures, weight 3, 3.0 visits each)" in result.stdout
    assert "source           bowls: 25.0% of visits (3 textures, weight 1, 1.3 visits each, loss weight 0.5)" in (
        result.stdout
    )
    assert "7 to train on, 3 held out" in result.stdout
    steps = [line for line in lines_of(tmp_path / "run") if "loss" in line]
    assert [line["share/bowls"] for line in steps] == [0.25] * 4  # in each batch of four, since shares are 3 : 1
    assert all(line["loss/cups"] > 0 and line["loss/bowls"] > 0 for line in steps)
    again = train(*QUICK, 4, "--config", tmp_path / "run/config.yaml", "--run.resume", "never")
    assert again.returncode == 0, again.stderr
    assert lines_of(tmp_path / "run-2") == lines_of(tmp_path / "run")
    kept = {name: (tmp_path / "run" / name).read_bytes() for name in ("config.yaml", "about.json", "masks.json")}
    other = mixed(pair, "weight: 2", 'weight: 1, caption_prefix: "a toy,", loss_weight: 0.5')
    refused = train(*QUICK, 6, "--data.dataset", other, "--run.output_dir", tmp_path / "run")
    assert refused.returncode == 2
    assert "was trained with other settings (dataset.content: " in refused.stderr
    assert {name: (tmp_path / "run" / name).read_bytes() for name in kept} == kept  # the run is what it was


def test_what_is_held_out_is_of_all_sources(pair):
    sources = (SourceConfig(path=str(pair / "cups")), SourceConfig(path=str(pair / "bowls"), caption_prefix="toy"))
    held_out = read_sources(sources, "validation", COLUMNS, needs_surface=False, missing_ok=False)
    assert [record.source for record in held_out] == [0, 1, 0]
    assert held_out[1].captions == ("toy colours number 0",)
    assert held_out[0].captions == ("colours number 0",)
    sources = (sources[0], SourceConfig(path=str(pair / "nowhere")))
    with pytest.raises(InputError, match=r"^data\.dataset\[1\]\.path: .*nowhere cannot be read"):
        read_sources(sources, "train", COLUMNS, needs_surface=False, missing_ok=False)


@pytest.mark.parametrize("reduction", ["texel", "sample"])
def test_a_loss_weight_is_of_the_errors_alone(pair, tmp_path, reduction):
    """Σ_b w_b E_b / Σ_b N_b and mean_b w_b E_b / N_b, by hand."""
    sources = (SourceConfig(path=str(pair / "cups")), SourceConfig(path=str(pair / "bowls"), loss_weight=0.25))
    data = DataConfig(dataset=sources, resolution=64, cache_dir=str(tmp_path))
    config = TrainingConfig(data=data, mask=MaskConfig(reduction=reduction))
    family = load_family("nano")
    records = read_sources(sources, "train", COLUMNS, needs_surface=False, missing_ok=False)
    textures, _ = encode_dataset(config.data, config.mask, family, records, [], Parallel(cpu=True))
    objective = Objective(config, family, None, Parallel(cpu=True))
    indices = [0, 4, 2, 6, 5]
    texels = textures.batch(indices).mask.sum(dim=(1, 2, 3)).double()
    own = torch.tensor([1, 0.25, 1, 0.25, 0.25], dtype=torch.float64)
    expected = own / texels.sum() if reduction == "texel" else own / (5 * texels)
    latent, _ = objective.weights(textures, indices, torch.full((5,), 500))
    torch.testing.assert_close(latent.double(), expected, rtol=1e-6, atol=0)
    cups = (texels[[0, 2]].sum() / texels.sum()).item() if reduction == "texel" else 2 / 5
    assert objective.portions(textures, indices) == pytest.approx([cups, 1 - cups])


def kohya_folder(root, draw, islands_mask):
    """kohya's train_data_dir with class folders, its masks, and a .toml that has a regularisation set too."""
    for first, folder, count in ((0, "4_red cup", 2), (10, "1_bowl", 3), (20, "reg", 4)):
        for number in range(count):
            soft = np.where(islands_mask(), 40 + 50 * number, 0).astype(np.uint8)
            for place, pixels in ((folder, draw(first + number)), (f"{folder}_mask", soft)):
                (root / place).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(root / place / f"{number}.png")
    subset = '[[datasets.subsets]]\nimage_dir = "{0}"\nconditioning_data_dir = "{0}_mask"\n{1}\n'
    subsets = [("4_red cup", "num_repeats = 4\nclass_tokens = 'red cup'"), ("1_bowl", "class_tokens = 'bowl'")]
    subsets += [("reg", "is_reg = true\nclass_tokens = 'thing'")]
    (root / "set.toml").write_text("[[datasets]]\n" + "".join(subset.format(*each) for each in subsets))
    for number in range(4):
        (root / f"reg/{number}.txt").write_text("a thing")
    return root


@pytest.mark.slow
def test_a_kohya_folder_with_repeats_a_regularisation_set_and_grey_masks(train, draw, islands_mask, tmp_path):
    root = kohya_folder(tmp_path / "set", draw, islands_mask)
    prepared = tmp_path / "prepared"
    prepare_dataset([str(root / "set.toml")], prepared, validation_fraction=0, workers=1)
    said = []
    for name, source in (("toml", root / "set.toml"), ("prepared", prepared)):
        dataset = f"[{{path: {source}, prior_loss_weight: 0.5}}]"
        result = train(*QUICK, 3, "--data.dataset", dataset, "--run.output_dir", tmp_path / f"run-{name}")
        assert result.returncode == 0, result.stderr
        lines = [line.split(": ", 1) for line in result.stdout.splitlines() if line.startswith("source  ")]
        said.append([text for _, text in lines])
        assert "9 of 9 are used as weights" in result.stdout
        figures = lines_of(tmp_path / f"run-{name}")[-1]
        assert figures["step"] == 3
    # 2 textures x 4 + 3 x 1 = 11 visits, and as many to the 4 regularisation images.
    assert (
        said[0]
        == said[1]
        == [
            "50.0% of visits (5 textures, repeats 1, 1.2 visits each)",
            "50.0% of visits (4 textures, repeats 1, 1.5 visits each, loss weight 0.5)",
        ]
    )
    rows = [json.loads(line) for line in (prepared / "train/metadata.jsonl").read_text().splitlines()]
    assert sorted((row["repeats"], row["regularisation"]) for row in rows) == (
        [(1, False)] * 3 + [(1, True)] * 4 + [(4, False)] * 2
    )


def test_the_names_of_kohyas_folders_are_repeats(draw, islands_mask, tmp_path):
    root = kohya_folder(tmp_path / "set", draw, islands_mask)
    shutil.rmtree(root / "reg")
    shutil.rmtree(root / "reg_mask")
    records = read_sources([SourceConfig(path=str(root))], "train", COLUMNS, needs_surface=False, missing_ok=False)
    assert {(record.captions, record.repeats) for record in records} == {(("red cup",), 4), (("bowl",), 1)}
    (root / "4_red cup").rename(root / "0_red cup")
    (root / "4_red cup_mask").rename(root / "0_red cup_mask")
    records = read_sources([SourceConfig(path=str(root))], "train", COLUMNS, needs_surface=False, missing_ok=False)
    assert [record.captions for record in records] == [("bowl",)] * 3


@pytest.mark.slow
def test_a_killed_run_of_weighted_sources_ends_as_if_it_had_never_been(train, pair, tmp_path):
    """Killed at once after a checkpoint, twice, and at a step that no epoch or block ends with."""
    dataset = mixed(pair, "weight: 1.5", "weight: 0.5, loss_weight: 0.3")
    flags = ["--data.dataset", dataset, "--run.checkpointing_steps", 1, "--run.report_to", "none"]
    flags += ["--data.resolution", 64, *QUICK, 9, "--data.cache_dir", tmp_path / "cache"]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert train(*flags, "--run.output_dir", straight).returncode == 0
    for step in (2, 5):
        command = [sys.executable, "train_texture.py", *map(str, flags), "--run.output_dir", str(killed)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        root = Path(__file__).parents[2]
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        until = time.monotonic() + 300
        while not any((killed / f"checkpoints/step-{n:08d}").is_dir() for n in range(step, 9)):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert train(*flags, "--run.output_dir", killed).returncode == 0
    one, other = (load_file(run / "pytorch_lora_weights.safetensors") for run in (straight, killed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert lines_of(straight) == lines_of(killed)
