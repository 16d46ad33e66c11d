"""data.unreadable: a texture that cannot be read is named, and stops the run or is left out and counted."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from texdiff.config import DataConfig, TrainingConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.errors import InputError
from texdiff.models.family import load_family
from texdiff.training.parallel import Parallel
from texdiff.training.startup import read_splits


@pytest.fixture(scope="module")
def parallel():
    return Parallel(cpu=True)


@pytest.fixture
def spoilt(dataset, tmp_path) -> Path:
    """Of six textures one is cut, one has an empty mask, one has no mask at all."""
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    whole = (copy / "train/textures/1.png").read_bytes()
    (copy / "train/textures/1.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(copy / "train/masks/3.png")
    (copy / "train/masks/4.png").unlink()
    return copy


def configured(dataset: Path, tmp_path: Path, **data: object) -> TrainingConfig:
    return TrainingConfig(
        data=DataConfig(dataset=str(dataset), resolution=64, cache_dir=str(tmp_path / "cache"), **data)
    )


def test_by_default_the_first_of_them_stops_the_run(spoilt, parallel, tmp_path):
    with pytest.raises(InputError, match=r"masks/4\.png: does not exist"):
        read_splits(configured(spoilt, tmp_path), parallel)


def test_with_skip_they_are_named_counted_and_left_out(spoilt, parallel, tmp_path, capsys):
    config = configured(spoilt, tmp_path, unreadable="skip")
    for _ in range(2):  # what was found out is remembered
        train, held_out = read_splits(config, parallel)
        assert [Path(record.name).name for record in train] == ["0.png", "2.png", "5.png"]
        assert len(held_out) == 2
        said = capsys.readouterr().err.splitlines()
        assert [line[:18] for line in said] == [f"left out, {i} of 6: " for i in (1, 2, 3)]
        for line, name in zip(said, ("textures/1.png", "textures/3.png: the mask is empty", "4.png"), strict=True):
            assert name in line
    shutil.copy(spoilt / "train/masks/5.png", spoilt / "train/masks/4.png")
    assert len(read_splits(config, parallel)[0]) == 4
    textures, _ = encode_dataset(config.data, config.mask, load_family("nano"), train, held_out, parallel)
    assert len(textures) == 3


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_with_skip_nothing_is_written_where_the_cache_is_not_on_disk(cache, spoilt, parallel, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    train, _ = read_splits(configured(spoilt, tmp_path, unreadable="skip", cache=cache), parallel)
    assert [Path(record.name).name for record in train] == ["0.png", "2.png", "5.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"dataset"}


def test_where_none_is_left_there_is_nothing_to_go_on_with(spoilt, parallel, tmp_path):
    for path in (spoilt / "train/textures").iterdir():
        path.write_bytes(b"none")
    with pytest.raises(InputError, match="none of 6 textures can be read; the first: "):
        read_splits(configured(spoilt, tmp_path, unreadable="skip"), parallel)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_in_the_middle_of_an_epoch(policy, dataset, parallel, tmp_path, capsys):
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    config = configured(copy, tmp_path, cache="off", unreadable=policy)
    textures, _ = encode_dataset(
        config.data, config.mask, load_family("nano"), *read_splits(config, parallel), parallel
    )
    before = textures.batch([0, 1, 2])
    (copy / "train/textures/1.png").write_bytes(b"GIF89a nothing")
    if policy == "stop":
        with pytest.raises(InputError, match=r"textures/1\.png: the texture"):
            textures.batch([0, 1, 2])
        return
    for visit in (1, 2):
        after = textures.batch([0, 1, 2])
        assert f"left out, {visit} visits so far: " in capsys.readouterr().err
    assert after.mask[1].sum() == after.outside[1].sum() == after.covered[1].sum() == 0
    for part in ("mean", "std", "mask", "covered"):
        one, other = getattr(before, part), getattr(after, part)
        assert torch.equal(one[[0, 2]], other[[0, 2]])
        assert other.isfinite().all()
