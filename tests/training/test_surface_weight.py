"""mask.weight surface: the loss of a run against float64 numpy, the cache, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from texdiff.config import DataConfig, MaskConfig, TrainingConfig
from texdiff.data.dataset import read_records
from texdiff.diffusion.noise import draw, draw_timesteps, sample_keys
from texdiff.training.encode import encode_dataset
from texdiff.training.models import load_base
from texdiff.training.state_file import read_state


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
    """The dataset with surface files."""
    folder = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    for split in ("train", "validation"):
        path = folder / split / "metadata.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for number, row in enumerate(rows):
            row["surface_file_name"] = f"surfaces/{number}.png"
            write_surface(folder / split, row, seed=number)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
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
    return weights * mask[::8, ::8].sum() / weights.sum()


def loss_by_hand(folder: Path, weights: list[np.ndarray]) -> float:
    """The loss of step 1 of a batch of four: the base's own prediction, since adapters start at zero."""
    base, records = load_base("nano"), read_records(str(folder), "train")
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
            latents = base.scaling_factor * (posterior.mean + posterior.std * draws.posterior[row])
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


def test_a_run_counts_cells_by_their_surface_however_its_batch_is_split(surfaced, train, tmp_path):
    flags = ["--data.dataset", surfaced, "--data.caption_dropout", 0, "--run.max_train_steps", 1]
    flags += ["--run.checkpointing_steps", 1, "--optim.max_grad_norm", 1e6]
    runs = {
        "whole": ["--mask.weight", "surface", "--run.train_batch_size", 4],
        "parts": ["--mask.weight", "surface", "--run.train_batch_size", 1, "--run.gradient_accumulation_steps", 4],
        "texel": ["--run.train_batch_size", 4],
    }
    for name, more in runs.items():
        result = train(*flags, *more, "--run.output_dir", tmp_path / name)
        assert result.returncode == 0, result.stderr[-2000:]
    loss, parts, texel = (first_loss(tmp_path / name) for name in runs)
    rows = rows_of(surfaced)
    assert loss == pytest.approx(
        loss_by_hand(surfaced, [weights_by_hand(surfaced / "train", r) for r in rows]), rel=1e-5
    )
    assert parts == pytest.approx(loss, rel=1e-6)
    whole, split = (first_gradient(tmp_path / name) for name in ("whole", "parts"))
    assert (whole - split).norm() < 1e-5 * whole.norm()
    assert abs(texel - loss) > 0.01 * loss
    # Which textures weigh how much is as it was: the coverage of the batch says it.
    assert (first_gradient(tmp_path / "texel") - whole).norm() > 0.05 * whole.norm()


def encode(folder: Path, cache: Path, weight: str = "surface"):
    config = TrainingConfig(
        data=DataConfig(dataset=str(folder), resolution=64, cache_dir=str(cache)), mask=MaskConfig(weight=weight)
    )
    records = read_records(str(folder), "train", needs_surface=weight == "surface")
    return encode_dataset(config, load_base("nano"), Accelerator(cpu=True), records, [])[0]


def test_weights_follow_the_file_and_nothing_else_is_made_again(surfaced, tmp_path, capfd):
    rows = rows_of(surfaced)
    textures = encode(surfaced, tmp_path / "cache")
    for index, row in enumerate(rows):
        np.testing.assert_allclose(textures.mask(index)[0], weights_by_hand(surfaced / "train", row), rtol=1e-5)
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
    np.testing.assert_allclose(changed.mask(0)[0], weights_by_hand(surfaced / "train", rows[0]), rtol=1e-5)
    assert not torch.allclose(changed.mask(0), textures.mask(0))
    assert torch.equal(changed.mask(1), textures.mask(1))
    assert changed.content != textures.content  # so a run does not go on with other weights unasked


def test_a_dataset_without_surfaces_is_refused_in_one_line(dataset, train, tmp_path):
    result = train("--data.dataset", dataset, "--mask.weight", "surface", "--run.output_dir", tmp_path / "run")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "has no surface file (nor have 5 others)" in line
    assert "prepare the dataset again from the meshes" in line
    assert not (tmp_path / "run").exists()
