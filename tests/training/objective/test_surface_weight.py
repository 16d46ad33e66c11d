"""mask.weight surface: the loss of a run against float64 numpy, the cache, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from texdiff.config import DataConfig, MaskConfig, TrainingConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.records import read_records
from texdiff.diffusion.draws import draw, draw_timesteps
from texdiff.diffusion.order import sample_keys
from texdiff.models.family import load_family
from texdiff.training.parallel import Parallel
from texdiff.training.run.state_file import read_state


def write_surface(row_of: Path, row: dict, seed: int) -> np.ndarray:
    """A surface file with densities over four orders of magnitude; returns them, float64 [64, 64]."""
    mask = np.asarray(Image.open(row_of / row["mask_file_name"])) > 0
    density = 10.0 ** np.random.default_rng(seed).uniform(-4, 0, (8, 8)).repeat(8, axis=0).repeat(8, axis=1)
    density *= np.random.default_rng(seed + 1).uniform(0.5, 1, mask.shape) * mask
    grey = np.where(mask, np.maximum(np.rint(65535 * np.sqrt(density / density.max())), 1), 0).astype(np.uint16)
    path = row_of / row["surface_file_name"]
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(grey).save(path)
    return (grey / 65535.0) ** 2


@pytest.fixture
def surfaced(dataset, tmp_path) -> Path:
    """What the dataset trains on, with surface files."""
    folder = tmp_path / "dataset"
    shutil.copytree(dataset / "train", folder / "train")
    rows = rows_of(folder)
    for number, row in enumerate(rows):
        row["surface_file_name"] = f"surfaces/{number}.png"
        write_surface(folder / "train", row, seed=number)
    (folder / "train" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def weights_by_hand(folder: Path, row: dict) -> np.ndarray:
    """float64 [8, 8]: nearest's mask times the mean density of each cell's covered texels, of the mask's own sum."""
    mask = np.asarray(Image.open(folder / row["mask_file_name"])) > 0
    density = (np.asarray(Image.open(folder / row["surface_file_name"])) / 65535.0) ** 2
    weights = np.zeros((8, 8))
    for i, j in np.ndindex(8, 8):
        cell = (slice(8 * i, 8 * i + 8), slice(8 * j, 8 * j + 8))
        if mask[8 * i, 8 * j]:
            weights[i, j] = density[cell][mask[cell]].mean()
    counted = np.sort(weights[mask[::8, ::8]])
    weights = np.minimum(weights, 16 * counted[(len(counted) - 1) // 2])
    return weights * mask[::8, ::8].sum() / weights.sum()


def loss_by_hand(folder: Path, weights: list[np.ndarray]) -> float:
    """The loss of step 1 of a batch of four: the base's own prediction, since adapters start at zero."""
    family, records = load_family("nano"), read_records(str(folder), "train")
    base = family.base
    keys = sample_keys(0, 0, 4, len(records))
    alphas = base.scheduler.alphas_cumprod.double()
    draws = draw(0, keys, (base.unet.config.in_channels, 8, 8), draw_timesteps(0, keys, len(alphas)), 0.0)
    error = texels = 0.0
    for row, (_, index) in enumerate(keys):
        with torch.no_grad():
            posterior = base.vae.encode(records[index].model_input(64, "fill")[0][None]).latent_dist
            tokens = base.tokenizer(
                records[index].captions[0], padding="max_length", truncation=True, return_tensors="pt"
            )
            text = base.text_encoder(tokens.input_ids)[0]
            latents = family.scaling_factor * (posterior.mean + posterior.std * draws.posterior[row])
            alpha = alphas[draws.timesteps[row]].float()
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * draws.noise[row]
            prediction = base.unet(noisy, draws.timesteps[row : row + 1], text).sample
        velocity = alpha.sqrt() * draws.noise[row] - (1 - alpha).sqrt() * latents
        target = {"epsilon": draws.noise[row][None], "v_prediction": velocity}[base.scheduler.config.prediction_type]
        squares = ((prediction - target).double() ** 2).mean(dim=1)[0].numpy()
        error += (weights[index] * squares).sum()
        texels += weights[index].sum()
    return error / texels


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "train" / "metadata.jsonl").read_text().splitlines()]


def first_loss(run: Path) -> float:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(line["loss"] for line in lines if line["step"] == 1 and "loss" in line)


def first_gradient(run: Path) -> torch.Tensor:
    state = read_state(run / "checkpoints" / "step-00000001" / "state.safetensors")["optimizer"]["state"]
    return torch.cat([entry["exp_avg"].double().flatten() for entry in state.values()])


FLAGS = ["--data.caption_dropout", 0, "--run.max_train_steps", 1, "--run.checkpointing_steps", 1]
FLAGS += ["--optim.max_grad_norm", 1e6]
WHOLE = ["--run.train_batch_size", 4]
PARTS = ["--run.train_batch_size", 1, "--run.gradient_accumulation_steps", 4]


def run(train, dataset: Path, folder: Path, *flags: object) -> Path:
    result = train(*FLAGS, *flags, "--data.dataset", dataset, "--run.output_dir", folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


def test_the_loss_of_a_run_is_the_one_by_hand(surfaced, train, tmp_path):
    loss = first_loss(run(train, surfaced, tmp_path / "run", *WHOLE, "--mask.weight", "surface"))
    weights = [weights_by_hand(surfaced / "train", row) for row in rows_of(surfaced)]
    assert loss == pytest.approx(loss_by_hand(surfaced, weights), rel=1e-5)
    texel = loss_by_hand(surfaced, [(weight > 0) * 1.0 for weight in weights])
    assert abs(texel - loss) > 0.01 * loss  # else that would say nothing


@pytest.mark.slow
def test_the_gradient_is_that_of_the_effective_batch_and_not_that_of_texels(surfaced, train, tmp_path):
    surface = ["--mask.weight", "surface"]
    whole = run(train, surfaced, tmp_path / "whole", *WHOLE, *surface)
    parts = run(train, surfaced, tmp_path / "parts", *PARTS, *surface)
    texel = run(train, surfaced, tmp_path / "texel", *WHOLE)
    assert first_loss(parts) == pytest.approx(first_loss(whole), rel=1e-6)
    one, split, other = (first_gradient(folder) for folder in (whole, parts, texel))
    assert (one - split).norm() < 1e-5 * one.norm()
    assert (one - other).norm() > 0.05 * one.norm()


def encode(folder: Path, cache: Path, weight: str = "surface"):
    config = TrainingConfig(
        data=DataConfig(dataset=str(folder), resolution=64, cache_dir=str(cache)), mask=MaskConfig(weight=weight)
    )
    records = read_records(str(folder), "train", needs_surface=weight == "surface")
    return encode_dataset(config.data, config.mask, load_family("nano"), records, [], Parallel(cpu=True))[0]


def test_weights_follow_the_file_and_nothing_else_is_made_again(surfaced, tmp_path, capfd):
    rows = rows_of(surfaced)
    textures = encode(surfaced, tmp_path / "cache")
    for index, row in enumerate(rows):
        np.testing.assert_allclose(textures.cells(index).target[0], weights_by_hand(surfaced / "train", row), rtol=1e-5)
    texel = encode(surfaced, tmp_path / "cache", "texel")
    assert torch.allclose(texel.texels, textures.texels)
    assert texel.content != textures.content
    capfd.readouterr()

    write_surface(surfaced / "train", rows[0], seed=99)
    again = encode(surfaced, tmp_path / "cache", "texel")
    assert "encoding" not in (said := capfd.readouterr().err)
    assert "masks" not in said
    assert again.content == texel.content
    changed = encode(surfaced, tmp_path / "cache")
    assert "encoding" not in (said := capfd.readouterr().err)
    assert "masks" in said
    np.testing.assert_allclose(changed.cells(0).target[0], weights_by_hand(surfaced / "train", rows[0]), rtol=1e-5)
    assert not np.allclose(changed.cells(0).target, textures.cells(0).target)
    assert np.array_equal(changed.cells(1).target, textures.cells(1).target)
    assert changed.content != textures.content  # so a run does not go on with other weights unasked


def test_a_dataset_without_surfaces_is_refused_in_one_line(dataset, train, tmp_path):
    result = train("--data.dataset", dataset, "--mask.weight", "surface", "--run.output_dir", tmp_path / "run")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "has no surface file (nor have 5 others)" in line
    assert "prepare the dataset again from the meshes" in line
    assert not (tmp_path / "run").exists()
