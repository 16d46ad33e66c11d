"""Processes of a run: what they agree on, and what of accelerate's configuration is refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from texdiff.config import DataConfig, ModelConfig, OptimConfig, RunConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.training.ema import Ema
from texdiff.training.optimizer import make_lr_scheduler, make_optimizer
from texdiff.training.parallel import REFUSED, Parallel, sharding
from texdiff.training.run import Run
from texdiff.training.run.checkpoint import Checkpointer
from texdiff.training.run.metrics_log import MetricsLog

WORKER = Path(__file__).parents[1] / "support/two_ranks.py"


def save_a_checkpoint(folder: Path) -> None:
    config = TrainingConfig(data=DataConfig(dataset="x"), run=RunConfig(report_to="none"))
    parameters = dict(torch.nn.Linear(2, 1).named_parameters())
    optimizer = make_optimizer(config.optim, parameters.values())
    schedule = make_lr_scheduler(config.optim, optimizer, 10)
    log = MetricsLog(Run(folder), Parallel(cpu=True), 4, config)
    ema = Ema(parameters.values(), None)
    Checkpointer(log.run, log, config, "content", parameters, optimizer, schedule, ema).save(5)
    (folder / "config.yaml").write_text(config.to_yaml())


@pytest.mark.slow
def test_ranks_that_see_different_disks_do_what_rank_0_decides(tmp_path):
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
    save_a_checkpoint(tmp_path / "0/run")
    (tmp_path / "0/file").write_text("")
    torchrun = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc_per_node", "2", WORKER, tmp_path]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*map(str, torchrun)], env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    host = socket.gethostname()
    not_shared = (
        f"is not the same folder on every machine: process 1 on {host} cannot see what process 0 writes there; name "
        "one on a disk that all of them share"
    )
    for rank in (0, 1):
        assert json.loads((tmp_path / str(rank) / "said.json").read_text()) == {
            "how": "2 on cpu (DDP)",
            "chosen": ["0/run", "0/run/checkpoints/step-00000005"],
            "decided": True,
            "refused": "run.output_dir: file is a file; name a folder",
            "not_shared": [f"run.output_dir: {name} {not_shared}" for name in ("run", "new/run")],
            "not_alike": f"data.dataset: the files of process 1 on {host} are not those of process 0 on {host}; "
            "give every machine the same",
            "alike": "",
            "any": [False, True],
            "gathered": [0, 1],
            "share": [[0, 1, 2, 3, 4][rank::2], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4][rank::2]],
            "bucket_view": True,
            "left": [],
        }


@pytest.mark.parametrize("name", [*REFUSED])
def test_what_cannot_be_trained_with_is_refused_with_the_reason(name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match=f"^accelerate's configuration: {REFUSED[name]}; leave it out, or"):
        Parallel(cpu=True)


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "fsdp_version must be 2 \\(got 1\\); set it, or leave FSDP out$"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params is not supported; "),
        ({"FSDP_VERSION": "2", "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "fsdp_activation_checkpointing is not for"),
    ],
)
def test_what_of_fsdp_there_is_not_is_refused(variables, reason, monkeypatch):
    for name, value in ({"ACCELERATE_USE_FSDP": "true"} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^accelerate's configuration: {reason}"):
        Parallel(cpu=True)


@pytest.mark.parametrize(
    ("changes", "precision", "reason"),
    [
        ({"model": ModelConfig()}, "no", "model.train lora: FSDP2 is for full fine-tuning"),
        ({"optim": OptimConfig(name="adafactor")}, "no", "optim.name: adafactor cannot step sharded weights"),
        ({}, "fp16", "mixed_precision: fp16 is not supported with FSDP"),
        ({"run": RunConfig(channels_last=True)}, "no", "run.channels_last: "),
    ],
)
def test_settings_that_sharded_weights_cannot_be_trained_with_are_refused(changes, precision, reason):
    full = {"data": DataConfig(dataset="x"), "model": ModelConfig(train="full")}
    sharding.check(TrainingConfig(**full), "bf16", torch.device("cpu"))
    with pytest.raises(InputError, match=f"^{reason}"):
        sharding.check(TrainingConfig(**full | changes), precision, torch.device("cpu"))


def test_a_pytorch_that_shards_on_gpus_alone_is_named(monkeypatch):
    config = TrainingConfig(data=DataConfig(dataset="x"), model=ModelConfig(train="full"))
    monkeypatch.delattr(torch.cpu.Stream, "record_event")  # as it is in 2.6
    sharding.check(config, "bf16", torch.device("cuda"))
    with pytest.raises(InputError, match=r"^accelerate's configuration: FSDP on CPUs needs a newer PyTorch than 2\."):
        sharding.check(config, "bf16", torch.device("cpu"))


def test_half_precision_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    with pytest.raises(InputError, match=r"^mixed_precision: fp16 needs a GPU; use no or bf16$"):
        Parallel(cpu=True)


def test_a_single_process_has_nothing_to_shard(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    parallel = Parallel(cpu=True)
    assert not parallel.sharded
    assert str(parallel) == "1 on cpu"
