"""A terminal that is closed, as over ssh: the run stops with a checkpoint, and under nohup it does not stop."""

import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from texdiff.training.run import Run

ROOT = Path(__file__).parents[3]


def start(dataset: Path, run: Path, *before: str, **options) -> subprocess.Popen:
    flags = {"data.dataset": dataset, "run.output_dir": run, "data.resolution": 64, "run.train_batch_size": 1}
    flags |= {"run.report_to": "none", "validation.num_images": 0, "validation.every": 1}
    words = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
    command = [*before, sys.executable, "train_texture.py", *words, "--run.max_train_steps", "60"]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, **options)


def wait_for_steps(run: Run, process: subprocess.Popen, terminal: int | None = None) -> None:
    """`terminal` is read from meanwhile, so that writing to it does not block."""
    limit = time.monotonic() + 200
    while not any("loss" in line for line in run.metrics()):
        assert process.poll() is None
        assert time.monotonic() < limit
        if terminal is None:
            time.sleep(0.01)
        elif select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 4096)


@pytest.mark.slow
def test_a_closed_terminal_stops_the_run_with_a_checkpoint(dataset, tmp_path):
    run = Run(tmp_path / "run")
    ours, theirs = pty.openpty()
    process = start(
        dataset,
        run.folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    try:
        wait_for_steps(run, process, ours)
    finally:
        os.close(ours)  # every further word to it is an error
    assert process.wait(120) == 0
    (checkpoint,) = run.checkpoints()
    assert run.metrics()[-1]["step"] == int(checkpoint.name.removeprefix("step-")) < 60
    assert run.report_file.is_file()
    assert not run.is_finished


@pytest.mark.slow
def test_under_nohup_it_does_not_stop(dataset, tmp_path):
    run = Run(tmp_path / "run")
    process = start(dataset, run.folder, "nohup", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_steps(run, process)
    process.send_signal(signal.SIGHUP)
    assert process.wait(200) == 0
    assert run.is_finished
