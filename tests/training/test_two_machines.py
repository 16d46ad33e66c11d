"""A run on two machines of two processes each, which share the run's folder alone, or its address."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from ports import free_ports

from texdiff.training.run import Run

PROGRAM = Path(__file__).parents[2] / "train_texture.py"
BIN = Path(sys.executable).parent
QUICK = ["--data.resolution", 64, "--validation.num_images", 0, "--run.report_to", "none"]


def launchers(kind: str) -> list[list[str]]:
    """The command before the program, of each machine."""
    [port] = free_ports(1)
    if kind == "accelerate":
        common = ["--multi_gpu", "--num_machines", "2", "--num_processes", "4", "--main_process_ip", "127.0.0.1"]
        common += ["--main_process_port", f"{port}", "--mixed_precision", "no", "--dynamo_backend", "no"]
        return [[f"{BIN}/accelerate", "launch", "-q", *common, "--machine_rank", rank] for rank in ("0", "1")]
    rendezvous = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port}", "--rdzv_id", "texdiff"]
    return [[f"{BIN}/torchrun", "--nnodes", "2", "--nproc_per_node", "2", *rendezvous]] * 2


def train_on_two(kind: str, folders: Sequence[Path], *flags: object) -> list[tuple[int, str]]:
    """Exit code, and all that was said, of each machine."""
    machines = []
    for launcher, folder in zip(launchers(kind), folders, strict=True):
        own = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / "cache")}
        command = [*launcher, str(PROGRAM), *map(str, flags)]
        out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        machines.append(subprocess.Popen(command, cwd=folder, env=os.environ | own, **out))
    said = [machine.communicate(timeout=900)[0] for machine in machines]
    return [(machine.returncode, text) for machine, text in zip(machines, said, strict=True)]


@pytest.mark.slow
def test_two_machines_that_share_the_run_folder_or_not_even_that_train_as_one_process(dataset, train, tmp_path):
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        shutil.copytree(dataset, folder / "data")
    flags = [*QUICK, "--data.dataset", "data", "--run.train_batch_size", 1]
    for kind, steps, place in (("accelerate", 2, f"{tmp_path}/run"), ("torchrun", 4, f"file://{tmp_path}/run")):
        own = ["--run.output_dir", place, "--run.max_train_steps", steps]
        for code, said in train_on_two(kind, folders, *flags, *own):
            assert code == 0, said
    for folder in folders:  # the second time, the run was in storage for them
        assert len([*folder.glob("cache/texdiff/runs/run-*/checkpoints/step-00000002")]) == 1

    alone = ["--data.dataset", dataset, "--run.train_batch_size", 4, "--run.max_train_steps", 4]
    result = train(*alone, "--run.output_dir", tmp_path / "alone")
    assert result.returncode == 0, result.stderr
    for key, steps in (("loss", [1, 2, 3, 4]), ("validation_loss", [0, 4])):
        there, here = (
            {line["step"]: line[key] for line in Run(tmp_path / name).metrics() if key in line}
            for name in ("run", "alone")
        )
        assert [there[step] for step in steps] == pytest.approx([here[step] for step in steps], rel=1e-5)
    assert [*there] == [0, 2, 4]
