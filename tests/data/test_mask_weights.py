"""Grey masks are weights, against brute force in float64 on the decoded files; others stay black and white."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mask_oracles import OF_A_CELL
from PIL import Image

from texdiff.config import DataConfig, MaskConfig, TrainingConfig
from texdiff.data.batch import LatentDataset
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.mask_weights import MaskKind, grey_share, mask_kind, mask_weights
from texdiff.data.prepare import prepare_dataset
from texdiff.data.records import read_records
from texdiff.diffusion.loss import masked_error, region_errors
from texdiff.models.family import load_family
from texdiff.training.objective import Objective
from texdiff.training.parallel import Parallel
from texdiff.uv.gutter import fill
from texdiff.uv.resize import resize_weighted

VALUES = [0, 3, 15, 16, 100, 127, 128, 200, 239, 240, 255]
greys = hnp.arrays(np.uint8, (24, 16), elements=st.sampled_from(VALUES), fill=st.sampled_from(VALUES))


@pytest.fixture(scope="module")
def parallel() -> Parallel:
    return Parallel(cpu=True)


@settings(max_examples=60, deadline=None)
@given(grey=greys)
def test_what_a_file_weighs(grey: np.ndarray) -> None:
    between = areas = 0
    for y, x in np.ndindex(grey.shape):
        near = grey[max(y - 2, 0) : y + 3, max(x - 2, 0) : x + 3]
        between += 16 <= grey[y, x] <= 239
        areas += 16 <= grey[y, x] <= 239 and not (near.min() < 16 and near.max() > 239)
    weights = mask_weights(grey)
    if areas > 0.05 * grey.size:
        assert mask_kind(grey) is MaskKind.WEIGHTS
        np.testing.assert_array_equal(weights, grey)
    else:
        assert mask_kind(grey) is (MaskKind.CUT if between else MaskKind.BINARY)
        np.testing.assert_array_equal(weights, np.where(grey < 128, 0, 255))


@settings(max_examples=30, deadline=None)
@given(weights=greys, size=st.sampled_from([(24, 16), (12, 8), (6, 4), (8, 16), (3, 2)]))
def test_smaller_weights_are_means_of_areas(weights: np.ndarray, size: tuple[int, int]) -> None:
    weights[0, 0] = 100  # one at least is neither 0 nor 255
    high, wide = 24 // size[0], 16 // size[1]
    mean = weights.astype(np.float64).reshape(size[0], high, size[1], wide).mean(axis=(1, 3))
    texture = np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)
    image, small = resize_weighted(texture, weights, size)
    assert np.abs(small - mean).max() <= 0.5 + 1e-4
    if size == weights.shape:
        np.testing.assert_array_equal(small, weights)
        np.testing.assert_array_equal(image, texture)


def soft(number: int) -> np.ndarray:
    """A mask with void, full weight, and all that is between, [64, 64]; no two of its cells are alike."""
    rng = np.random.default_rng(number)
    grey = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    grey[: 16 + 8 * number] = 0
    grey[16 + 8 * number :, :16] = 255
    return grey


def folder_of(root: Path, draw: Callable[..., np.ndarray], masks: list[np.ndarray]) -> Path:
    """Images with masks beside them, as OneTrainer has them."""
    root.mkdir()
    for number, mask in enumerate(masks):
        Image.fromarray(draw(number)).save(root / f"{number}.png")
        Image.fromarray(mask).save(root / f"{number}-masklabel.png")
        (root / f"{number}.txt").write_text(f"cup {number}")
    return root


def encoded(folder: Path, cache: Path, parallel: Parallel, **mask: object) -> tuple[LatentDataset, Objective]:
    data = DataConfig(dataset=str(folder), resolution=64, posterior="mean", cache_dir=str(cache))
    config = TrainingConfig(data=data, mask=MaskConfig(**mask))
    family, records = load_family("nano"), read_records(str(folder), "train")
    textures, _ = encode_dataset(config.data, config.mask, family, records, [], parallel)
    return textures, Objective(config, family, None, parallel)


def by_cell(grey: np.ndarray, of: Callable[..., float]) -> np.ndarray:
    """A figure of each 8 x 8 cell of the weights, in float64."""
    weights = grey.astype(np.float64) / 255
    return np.array([[of(weights[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]) for x in range(8)] for y in range(8)])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("reduction", ["texel", "sample"])
@pytest.mark.parametrize("mode", OF_A_CELL)
def test_a_loss_of_weighted_texels(
    mode: str, reduction: str, draw: Callable, tmp_path: Path, cache: Path, parallel: Parallel
) -> None:
    masks = [soft(number) for number in range(3)]
    folder = folder_of(tmp_path / "set", draw, masks)
    textures, objective = encoded(folder, cache, parallel, downsample=mode, reduction=reduction, unmasked_weight=0.25)
    assert textures.kinds.tolist() == [MaskKind.WEIGHTS] * 3
    batch = textures.batch(range(3))
    target = np.stack([by_cell(grey, OF_A_CELL[mode]) for grey in masks])  # [B, h, w]
    outside = 0.25 * (1 - target)
    np.testing.assert_allclose(batch.mask[:, 0], target, atol=1e-6)
    np.testing.assert_allclose(batch.outside[:, 0], outside, atol=1e-6)
    prediction, wanted = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squares = (prediction - wanted).square().mean(dim=1).numpy()
    sums, texels = ((target + outside) * squares).sum(axis=(1, 2)), (target + outside).sum(axis=(1, 2))
    expected = sums.sum() / texels.sum() if reduction == "texel" else (sums / texels).mean()
    latent, _ = objective.weights(textures, range(3), torch.full((3,), 500))
    errors = masked_error(prediction, wanted, batch.mask) + masked_error(prediction, wanted, batch.outside)
    assert float((latent * errors).sum()) == pytest.approx(expected, rel=1e-5)


def test_figures_of_weighted_texels(draw: Callable, tmp_path: Path, cache: Path, parallel: Parallel) -> None:
    masks = [soft(number) for number in range(2)]
    folder = folder_of(tmp_path / "set", draw, masks)
    textures, _ = encoded(folder, cache, parallel, downsample="nearest", pixel_weight=0.5)
    batch = textures.batch(range(2))
    for row, grey in enumerate(masks):
        nearest, mean = by_cell(grey, OF_A_CELL["nearest"]), by_cell(grey, np.mean)
        void = by_cell(grey, lambda cell: (cell == 0).mean())
        np.testing.assert_allclose(batch.covered[row, 0], mean, rtol=1e-6)
        np.testing.assert_allclose(batch.texels[row, 0], grey.astype(np.float64) / 255, rtol=1e-6)
        figures = {name: float(column[row]) for name, column in textures.sums.items()}
        assert figures["covered"] == pytest.approx(mean.sum(), rel=1e-6)
        assert figures["dropped"] == pytest.approx(mean[nearest == 0].sum(), rel=1e-6)
        assert figures["void"] == pytest.approx((nearest * void).sum(), rel=1e-5)
        assert float(textures.pixels[row]) == pytest.approx(grey.sum(dtype=np.float64) / 255, rel=1e-6)
    prediction = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    squares = prediction.double().square().mean(dim=1).numpy()
    mean = np.stack([by_cell(grey, np.mean) for grey in masks])
    regions = [mean == 1, (mean > 0) & (mean < 1), mean == 0]
    sums, cells = region_errors(prediction, torch.zeros_like(prediction), batch.covered).double().numpy()
    np.testing.assert_allclose(sums, [squares[region].sum() for region in regions], rtol=1e-5)
    assert cells.tolist() == [region.sum() for region in regions]
    assert min(cells) > 0


def test_void_is_what_weighs_nothing(draw: Callable, tmp_path: Path) -> None:
    grey = soft(1)
    (record,) = read_records(str(folder_of(tmp_path / "set", draw, [grey])), "train")
    image, mask = record.model_input(64, "fill")
    np.testing.assert_array_equal(mask, grey > 0)
    expected = fill(draw(0), grey > 0)
    np.testing.assert_array_equal(((image + 1) * 127.5).round().numpy().astype(np.uint8).transpose(1, 2, 0), expected)


def test_nearly_black_and_white_is_what_it_was(
    draw: Callable, islands_mask: Callable, tmp_path: Path, cache: Path, parallel: Parallel
) -> None:
    """The rim of what was drawn with anti-aliasing, then saved as JPEG: as if it had been cut, to the bit."""
    large = islands_mask(256).astype(np.uint8) * 255
    drawn = Image.fromarray(large).resize((64, 64), Image.Resampling.BICUBIC)
    drawn.save(file := io.BytesIO(), "JPEG", quality=92)
    rim = np.asarray(Image.open(file)).copy()
    rim[0, :8] = [20, 60, 127, 128, 180, 230, 90, 140]
    assert grey_share(rim) > 0.05  # of so small an image
    pair = []
    for name, mask in (("rim", rim), ("cut", (rim >= 128).astype(np.uint8) * 255)):
        folder = folder_of(tmp_path / name, draw, [mask])
        textures, _ = encoded(folder, cache, parallel, downsample="area")
        pair.append(textures.batch([0]))
        assert textures.kinds.tolist() == [MaskKind.CUT if name == "rim" else MaskKind.BINARY]
        assert textures.encoded.textures([0])[0].mask.shape == (64, 8)
    for name in ("mean", "std", "mask", "outside", "covered"):
        assert torch.equal(getattr(pair[0], name), getattr(pair[1], name))


def test_prepare_keeps_weights(draw: Callable, islands_mask: Callable, tmp_path: Path) -> None:
    masks = [soft(0), islands_mask().astype(np.uint8) * 255]
    folder = folder_of(tmp_path / "set", draw, masks)
    summary = prepare_dataset([str(folder)], tmp_path / "data", validation_fraction=0, workers=1)
    assert "1 x the mask is grey, so its texels weigh their value / 255" in summary
    lines = (tmp_path / "data/train/metadata.jsonl").read_text().splitlines()
    rows = {row["text"]: row for row in map(json.loads, lines)}
    for number, mask in enumerate(masks):
        row = rows[f"cup {number}"]
        kept = np.asarray(Image.open(tmp_path / "data/train" / row["mask_file_name"]))
        np.testing.assert_array_equal(kept, mask)
        assert row["coverage"] == pytest.approx((mask > 0).mean(), abs=1e-4)


@pytest.mark.slow
def test_a_run_says_which_masks_are_weights(train: Callable, draw: Callable, islands_mask: Callable, tmp_path) -> None:
    rim = islands_mask().astype(np.uint8) * 255
    rim[0, :9] = 140
    folder = folder_of(tmp_path / "set", draw, [soft(0), soft(1), rim])
    flags = ["--data.dataset", folder, "--run.output_dir", tmp_path / "run", "--run.max_train_steps", 2]
    result = train(*flags, "--run.train_batch_size", 2, "--data.cache_dir", tmp_path / "cache")
    assert result.returncode == 0, result.stderr
    assert (
        "grey masks       2 of 3 are used as weights: more than 5% of each is grey, rims aside; "
        "1 of 3 with less are black and white, cut at 128"
    ) in result.stdout
    picture = np.asarray(Image.open(tmp_path / "run/first_batch.png"))
    assert len(np.unique(picture[:64, 72:136])) > 100  # the mask as it is
