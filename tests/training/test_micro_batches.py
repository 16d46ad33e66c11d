"""Micro-batches made ahead are those made when they are asked for; and each way to cache gives the same ones."""

import shutil
import threading
import time

import pytest
import torch

from texdiff.config import DataConfig, MaskConfig, NoiseConfig, RunConfig, TrainingConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.records import read_records
from texdiff.diffusion.order import sample_keys
from texdiff.models.base import Base
from texdiff.models.family import load_family
from texdiff.training.batching import BatchPlan
from texdiff.training.micro_batches import feed, make_micro_batches, prefetch
from texdiff.training.objective import Objective
from texdiff.training.parallel import Parallel


@pytest.fixture(scope="module")
def parallel():
    return Parallel(cpu=True)


def configured(dataset, cache_dir, cache="disk", pixel_weight=0.5, **run):
    return TrainingConfig(
        data=DataConfig(
            dataset=str(dataset), resolution=64, caption_dropout=0.3, cache=cache, cache_dir=str(cache_dir)
        ),
        mask=MaskConfig(unmasked_weight=0.1, pixel_weight=pixel_weight),
        noise=NoiseConfig(snr_gamma=5, input_perturbation=0.1),
        run=RunConfig(max_train_steps=5, train_batch_size=2, gradient_accumulation_steps=2, **run),
    )


def micro_batches_of(config, parallel, first_step=0):
    """This configuration's micro-batches, in the direct way."""
    family = load_family("nano")
    splits = (read_records(config.data.dataset, split) for split in ("train", "validation"))
    textures, _ = encode_dataset(config.data, config.mask, family, *splits, parallel)
    share = BatchPlan(config.run.train_batch_size, config.run.gradient_accumulation_steps, rank=0, world=1)
    objective = Objective(config, family, None, parallel)
    return make_micro_batches(config, textures, share, objective, first_step)


def tensors(one):
    parts = {"weights": one.weights}
    for name in ("mean", "std", "mask", "outside", "covered", "texels"):
        parts[name] = getattr(one.textures, name)
    parts |= one.conditioning.prompt
    for name in ("posterior", "noise", "perturbation", "timesteps", "caption"):
        parts[name] = getattr(one.draws, name)
    return {name: part for name, part in parts.items() if part is not None}


def assert_same(ones, others):
    for one, other in zip(ones, others, strict=True):
        same = ("step", "is_last", "keys", "coverage")
        assert [getattr(one, name) for name in same] == [getattr(other, name) for name in same]
        assert one.textures.names == other.textures.names
        mine, theirs = tensors(one), tensors(other)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_fed_micro_batches_are_the_direct_ones(dataset, parallel, tmp_path):
    config = configured(dataset, tmp_path)
    direct = list(micro_batches_of(config, parallel))
    assert [(one.step, one.is_last) for one in direct] == [(s, last) for s in range(5) for last in (False, True)]
    assert [key for one in direct for key in one.keys] == sample_keys(0, 0, 20, 6)
    assert_same(feed(micro_batches_of(config, parallel), torch.device("cpu"), torch.float32), direct)
    assert_same(micro_batches_of(config, parallel, first_step=3), direct[6:])
    half = next(feed(direct, torch.device("cpu"), torch.bfloat16))
    assert (half.textures.prompt["text"].dtype, half.textures.mean.dtype) == (torch.bfloat16, torch.float32)


def test_windows_follow_from_the_sample_alone(make_dataset, parallel, tmp_path):
    """Whatever ranks and micro-batches an effective batch is cut into, and wherever a run is continued."""
    dataset = make_dataset(tmp_path / "atlases", [0.3, 1.0, 0.1], size=160)
    run = RunConfig(max_train_steps=4, train_batch_size=4)
    data = DataConfig(dataset=str(dataset), resolution=64, source_resolution=160, scales=(1, 0), cache="memory")
    config = TrainingConfig(data=data, mask=MaskConfig(pixel_weight=0.5), run=run)
    family = load_family("nano")
    textures, _ = encode_dataset(data, config.mask, family, read_records(str(dataset), "train"), [], parallel)
    objective = Objective(config, family, None, parallel)

    def by_key(plan, first_step=0):
        made = list(make_micro_batches(config, textures, plan, objective, first_step))
        rows = {}
        for one in made:
            for row, key in enumerate(one.keys):
                parts = tensors(one) | {"even": one.textures.even, "sizes": one.textures.sizes}
                rows[one.step, key] = {name: t[..., row] if name == "weights" else t[row] for name, t in parts.items()}
        return rows

    whole = by_key(BatchPlan(4, 1, 0, 1))
    assert len({tuple(parts["sizes"].tolist()) for parts in whole.values()}) > 4
    pieces = by_key(BatchPlan(1, 2, 0, 2)) | by_key(BatchPlan(1, 2, 1, 2))
    for other in (pieces, by_key(BatchPlan(1, 4, 0, 1)), by_key(BatchPlan(4, 1, 0, 1), 2)):
        assert len(other) in (16, 8)
        for key, parts in other.items():
            assert all(torch.equal(part, whole[key][name]) for name, part in parts.items()), key


def test_every_way_to_cache_gives_the_same_numbers(dataset, parallel, tmp_path):
    disk = list(micro_batches_of(configured(dataset, tmp_path / "disk"), parallel))
    for cache in ("memory", "off"):
        assert_same(micro_batches_of(configured(dataset, tmp_path / cache, cache), parallel), disk)
        assert not (tmp_path / cache).exists()


def test_a_second_start_loads_no_encoder_and_an_edit_only_what_it_needs(dataset, parallel, tmp_path, monkeypatch):
    copy = shutil.copytree(dataset, tmp_path / "dataset")
    first = list(micro_batches_of(configured(copy, tmp_path / "cache", pixel_weight=0), parallel))
    loaded = []
    load = Base._load
    monkeypatch.setattr(
        Base, "_load", lambda self, kind, part, *dtype: loaded.append(part) or load(self, kind, part, *dtype)
    )
    assert_same(micro_batches_of(configured(copy, tmp_path / "cache", pixel_weight=0), parallel), first)
    assert loaded == ["scheduler"]
    moved = copy.rename(tmp_path / "moved")
    loaded.clear()
    names = [name.replace("/dataset/", "/moved/") for one in first for name in one.textures.names]
    again = list(micro_batches_of(configured(moved, tmp_path / "cache", pixel_weight=0), parallel))
    assert [name for one in again for name in one.textures.names] == names
    assert loaded == ["scheduler"]
    metadata = moved / "train/metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("colours number 3", "another caption"))
    micro_batches_of(configured(moved, tmp_path / "cache", pixel_weight=0), parallel)
    assert set(loaded) == {"scheduler", "tokenizer", "text_encoder"}


def test_a_prefetched_error_comes_in_its_place():
    def items():
        yield from range(5)
        raise ValueError("the sixth")

    coming = prefetch(items())
    assert [next(coming) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="the sixth"):
        next(coming)


def test_prefetching_is_ahead_but_not_far_and_stops_at_once():
    made = []

    def items():
        for number in range(10**9):
            made.append(number)
            yield number

    coming = prefetch(items(), ahead=2)
    assert next(coming) == 0
    time.sleep(0.3)
    assert 2 <= len(made) <= 4
    before = threading.active_count()
    start = time.perf_counter()
    coming.close()
    assert time.perf_counter() - start < 1
    assert threading.active_count() == before - 1


def test_the_order_of_an_epoch_is_made_once(monkeypatch):
    made = []
    randperm = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *a, **k: made.append(a) or randperm(*a, **k))
    keys = [key for step in range(100) for key in sample_keys(987, 7 * step, 7, 350)]
    assert made == [(350,), (350,)]
    assert [sorted(index for e, index in keys if e == epoch) for epoch in (0, 1)] == [list(range(350))] * 2
