"""What reads settings, checkpoints, LoRAs, bases and the cache, each with small sound folders to start from."""

import contextlib
import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import Files, Reader, files_of, jsonl, naming

from texdiff.errors import InputError


def config_seeds() -> list[Files]:
    import yaml

    from texdiff.config import DataConfig, TrainingConfig

    whole = yaml.safe_dump(TrainingConfig(data=DataConfig(dataset="x")).to_dict()).encode()
    return [{"config.yaml": path.read_bytes()} for path in sorted(Path("configs").glob("*.yaml"))] + [
        {"config.yaml": whole}
    ]


def read_config(folder: Path) -> None:
    from texdiff.cli.train_arguments import parse_command_line

    code, said = 0, io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parse_command_line(["--config", str(folder / "config.yaml"), "--data.dataset", "x"])
    except SystemExit as error:
        code = error.code
    if code:
        assert code == 2
        assert said.getvalue().startswith("train_texture.py: error: "), said.getvalue()
        assert said.getvalue().count("\n") == 1, said.getvalue()
        raise InputError(said.getvalue()[:500].strip())


# --- what runs leave and take up again


@cache
def _checkpointer() -> Any:
    import torch

    from texdiff.config import DataConfig, RunConfig, TrainingConfig
    from texdiff.training.ema import Ema
    from texdiff.training.optimizer import make_lr_scheduler, make_optimizer
    from texdiff.training.parallel import Parallel
    from texdiff.training.run import Run
    from texdiff.training.run.checkpoint import Checkpointer
    from texdiff.training.run.metrics_log import MetricsLog

    config = TrainingConfig(data=DataConfig(dataset="x"), run=RunConfig(report_to="none"))
    layer = torch.nn.Linear(3, 2)
    parameters = dict(layer.named_parameters())
    optimizer = make_optimizer(config.optim, parameters.values())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    schedule = make_lr_scheduler(config.optim, optimizer, 10)
    log = MetricsLog(Run(Path()), Parallel(cpu=True), 4, config)
    return Checkpointer(
        log.run, log, config, "content", parameters, optimizer, schedule, Ema(parameters.values(), None)
    )


def _checkpointer_of(folder: Path) -> Any:
    from texdiff.training.run import Run

    checkpoints = _checkpointer()
    checkpoints.run = checkpoints.log.run = Run(folder)
    checkpoints.saved = 0
    return checkpoints


def checkpoint_seeds() -> list[Files]:
    with tempfile.TemporaryDirectory() as place:
        checkpoints = _checkpointer_of(Path(place))
        for step in (1, 2):
            checkpoints.save(step)
        lines = jsonl(*({"step": step, "loss": 0.5, "samples_seen": 4 * step} for step in (1, 2)))
        return [files_of(Path(place)) | {"metrics.jsonl": lines, "config.yaml": b"{}\n"}]


def read_checkpoint(folder: Path) -> None:
    """As a run that continues: damage is found by the sums. Then as if somebody had made the sums fit."""
    from texdiff.training.run.checkpoint import newest_good

    checkpoints = _checkpointer_of(folder)
    with contextlib.redirect_stderr(io.StringIO()):
        checkpoints.run.resume_from = newest_good(checkpoints.run)
    checkpoints.resume()
    for found in reversed(checkpoints.run.checkpoints()):
        with contextlib.suppress(InputError):
            checkpoints.load(found)
    checkpoints.log.drop_after(1)


@cache
def _nano() -> Any:
    from texdiff.inference.sampler import load_pipeline

    return load_pipeline("nano")


def lora_seeds() -> list[Files]:
    import torch
    from safetensors.torch import save

    unet, file = _nano().unet, "pytorch_lora_weights.safetensors"
    name = next(n for n, m in unet.named_modules() if n.endswith("attn2.to_q"))
    width = unet.get_submodule(name).weight.shape
    for old, down, up in ((False, "lora_A", "lora_B"), (True, "lora_down", "lora_up")):
        prefix = f"lora_unet_{name.replace('.', '_')}" if old else f"unet.{name}"
        tensors = {f"{prefix}.{down}.weight": torch.ones(2, width[1]), f"{prefix}.{up}.weight": torch.ones(width[0], 2)}
        if old:
            kohya = {file: save(tensors | {f"{prefix}.alpha": torch.tensor(1.0)})}
        else:
            settings = {"unet.r": 2, "unet.lora_alpha": 1, "unet.target_modules": ["to_q"]}
            plain = tensors
            ours = {file: save(tensors, {"lora_adapter_metadata": json.dumps(settings), "format": "pt"})}
    peft = {"base_model.model." + key.removeprefix("unet."): value for key, value in plain.items()}
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 1, "target_modules": ["to_q"], "lora_dropout": 0.0}
    theirs = {"adapter_model.safetensors": save(peft), "adapter_config.json": json.dumps(settings).encode()}
    return [ours, kohya, theirs]


def read_lora(folder: Path) -> None:
    from texdiff.models.lora_files.find import lora_file
    from texdiff.models.lora_files.load import add_lora, layer_names

    pipeline = _nano()
    try:
        with naming(folder):
            layer_names(lora_file(folder))
            add_lora(pipeline, folder)
    finally:
        with contextlib.suppress(ValueError, AttributeError):
            pipeline.unload_lora_weights()


def base_seeds() -> list[Files]:
    from texdiff.models.base import resolve_base

    return [files_of(Path(resolve_base("nano")))]


def read_base(folder: Path) -> None:
    from texdiff.models.base import load_base

    base = load_base(str(folder))
    for part in ("scheduler", "tokenizer", "vae", "text_encoder", "unet"):
        getattr(base, part)


STORED: dict[int, np.float32] = {}  # what the entries' means add up to: a damaged one is never given out


def store_seeds() -> list[Files]:
    from texdiff.data.cache.keys import key_of
    from texdiff.data.cache.store import ArrayStore

    with tempfile.TemporaryDirectory() as place:
        store = ArrayStore(Path(place))
        for number in range(6):
            mean = np.random.default_rng(number).normal(size=(4, 8, 8)).astype(np.float32)
            STORED[number] = mean.sum()
            store.add(key_of(number), {"mean": mean, "n": np.float32(number)})
            if number == 3:
                store.flush()
        store.flush()
        return [files_of(Path(place))]


def read_store(folder: Path) -> None:
    from texdiff.data.cache.keys import as_keys, key_of
    from texdiff.data.cache.store import ArrayStore

    store = ArrayStore(folder)
    with contextlib.redirect_stderr(io.StringIO()):
        store.load()
    places = store.find(as_keys([key_of(number) for number in range(6)]))
    if (places >= 0).any():
        store.column("n", places[places >= 0])
    for number in np.flatnonzero(places >= 0):
        entry = store.get(int(places[number]))
        assert entry["mean"].sum() == STORED[number]


READERS = [
    Reader("settings", config_seeds, r".*", read_config),
    Reader("checkpoints", checkpoint_seeds, r".*", read_checkpoint, share=2),
    Reader("LoRA", lora_seeds, r".*", read_lora),
    Reader("base", base_seeds, r".*\.(json|txt)|text_encoder/.*", read_base, share=0.2),
    Reader("cache", store_seeds, r".*", read_store),
]
