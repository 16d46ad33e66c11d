"""Validation while training: what it costs beside the steps, and that it leaves the model as it was."""

import json
from pathlib import Path

import pytest
import torch

from texdiff.config import DataConfig, LoraConfig, RunConfig, TrainingConfig, ValidationConfig
from texdiff.data.cache.encode import encode_dataset
from texdiff.data.records import read_records
from texdiff.models.base import Base
from texdiff.models.family import Conditioning, load_family
from texdiff.models.trainable import make_trainable
from texdiff.training.ema import Ema
from texdiff.training.parallel import Parallel
from texdiff.training.run import Run
from texdiff.training.run.export import Export
from texdiff.training.run.metrics_log import MetricsLog
from texdiff.training.run.stop_signals import StopSignals
from texdiff.training.validation import Validation

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def loaded(monkeypatch) -> list[str]:
    """The parts of bases that are loaded from now on."""
    parts: list[str] = []
    load = Base._load
    monkeypatch.setattr(
        Base, "_load", lambda self, kind, part, *dtype: parts.append(part) or load(self, kind, part, *dtype)
    )
    return parts


def made(dataset: Path, folder: Path, cache: str = "disk"):
    """A validation of a run that begins, and what it evaluates."""
    config = TrainingConfig(
        data=DataConfig(dataset=str(dataset), resolution=64, cache=cache, cache_dir=str(folder / "cache")),
        run=RunConfig(report_to="none", train_batch_size=3),
        validation=ValidationConfig(num_images=1, num_inference_steps=2),
    )
    parallel, family = Parallel(cpu=True), load_family("nano")
    splits = [read_records(str(dataset), split) for split in ("train", "validation")]
    textures, held_out = encode_dataset(config.data, config.mask, family, *splits, parallel)
    trainable = make_trainable(family, "lora", LoraConfig(rank=2), 0, torch.float32)
    log = MetricsLog(Run(folder / "run"), parallel, 3, config)
    log.run.folder.mkdir()
    ema = Ema(trainable.trained().values(), None)
    export = Export(config, trainable, ema, log.run, parallel)
    about = {"dataset": {"textures": len(splits[0])}, "machine": {}}
    log.run.provenance_file.write_text(json.dumps(about))
    validation = Validation(config, family, trainable, ema, export, log, held_out, splits[0], StopSignals("auto"))
    return validation, textures


@pytest.mark.parametrize("cache", ["disk", "off"])
def test_encoders_are_loaded_once_however_often_it_runs(cache, dataset, tmp_path, loaded):
    validation, textures = made(dataset, tmp_path, cache)
    for step in (0, 1, 2):
        validation.run(step)
        textures.batch([0])  # with `off` by the same encoders
    parts = ["vae", "text_encoder", "tokenizer", "scheduler", "unet"]
    assert sorted(loaded) == sorted(parts)
    samples = [next((tmp_path / f"run/samples/step-{step:08d}").glob("00-*s*.png")) for step in (0, 1, 2)]
    assert len({path.read_bytes() for path in samples}) == 1  # the same weights, the same noise
    losses = {line["step"]: line["validation_loss"] for line in validation.log.run.metrics()}
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")  # torch's own
def test_neither_samples_nor_losses_are_compiled(dataset, tmp_path):
    graphs = []

    def count(module, inputs):
        graphs.append(module)
        return module.forward

    validation, textures = made(dataset, tmp_path)
    torch._dynamo.reset()
    validation.trainable.denoiser.compile_repeated_blocks(backend=count)
    validation.run(0)
    assert not graphs
    batch = textures.batch([0])
    validation.trainable(batch.mean, torch.tensor([5]), Conditioning(prompt=batch.prompt))
    assert graphs  # else the blocks would not have been compiled at all
    before = len(graphs)
    validation.run(1)
    assert len(graphs) == before
    assert validation.trainable.training
    torch._dynamo.reset()
