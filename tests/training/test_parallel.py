"""Processes of a run: what they agree on, and what of accelerate's configuration is refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from texdiff.config import DataConfig, RunConfig, TrainingConfig
from texdiff.errors import InputError
from texdiff.training.ema import Ema
from texdiff.training.optimizer import make_lr_scheduler, make_optimizer
from texdiff.training.parallel import SHARDED, Parallel
from texdiff.training.run import Run
from texdiff.training.run.checkpoint import Checkpointer
from texdiff.training.run.metrics_log import MetricsLog

WORKER = Path(__file__).parents[1] / "support/two_ranks.py"
FSDP = "compute_environment: LOCAL_MACHINE\ndistributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 2}\n"


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
            "share": [[0, 1, 2, 3, 4][rank::2], [0, 1, 2, 3, 4]],
            "bucket_view": True,
            "left": [],
        }


@pytest.mark.parametrize("name", [*SHARDED])
def test_sharded_training_is_refused(name, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match=f"^accelerate's configuration: {SHARDED[name]} is not supported"):
        Parallel(cpu=True)


@pytest.mark.slow
def test_a_configuration_with_fsdp_is_refused_in_one_line_of_each_process(dataset, run_program, tmp_path):
    (tmp_path / "fsdp.yaml").write_text(FSDP)
    launcher = [Path(sys.executable).with_name("accelerate"), "launch", "-q", "--config_file", tmp_path / "fsdp.yaml"]
    flags = ["train_texture.py", "--data.dataset", dataset, "--run.output_dir", tmp_path / "run"]
    result = run_program(*launcher, *flags)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if "train_texture.py: error:" in line]
    assert {line.partition("error: ")[2] for line in lines} == {
        "accelerate's configuration: FSDP is not supported; choose one process or several on one machine without it "
        "(accelerate config)"
    }
    assert not (tmp_path / "run").exists()
