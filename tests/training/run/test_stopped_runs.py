"""Runs that are stopped: by signals, by a full disk, by another process's death; and that go on as if they had not."""

import json
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LORA = "pytorch_lora_weights.safetensors"
STEPS = 8
TOKEN = "hf_aTokenThatNobodyMaySee"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_TOKEN": TOKEN}
FLAGS = {
    "data.resolution": 64,
    "run.max_train_steps": STEPS,
    "run.train_batch_size": 1,
    "run.gradient_accumulation_steps": 2,
    "run.checkpointing_steps": 1000,
    "run.report_to": "none",
    "optim.learning_rate": 1e-3,
    "optim.use_ema": "true",
    "validation.every": 3,
    "validation.num_images": 1,
    "validation.num_inference_steps": 2,
}
RANKS = [str(Path(sys.executable).with_name("torchrun")), "--standalone", "--nproc_per_node", "2", "train_texture.py"]
SMALL = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs"]
ACCELERATE = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", "accelerate_config.yaml"]


def words(dataset: Path, run: Path, **flags: object) -> list[str]:
    settings = FLAGS | {"data.dataset": dataset, "run.output_dir": run} | flags
    return [str(word) for key, value in settings.items() for word in (f"--{key}", value)]


class Started:
    """A training that runs, in a process group of its own."""

    def __init__(self, dataset: Path, run: Path, *launcher: str, **flags: object) -> None:
        self.run, self.log = run, run.with_suffix(".log")
        command = [*(launcher or (sys.executable, "train_texture.py")), *words(dataset, run, **flags)]
        environment = os.environ | ENVIRONMENT
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_for(self, *patterns: str) -> None:
        """Until a file of the run's folder is there that one of the patterns finds."""
        limit = time.monotonic() + 300
        while not any(list(self.run.glob(pattern)) for pattern in patterns):
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < limit, self.said()
            time.sleep(0.002)

    def wait_for_steps(self, count: int) -> None:
        limit = time.monotonic() + 300
        while len([line for line in metrics(self.run) if "loss" in line]) < count:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < limit, self.said()
            time.sleep(0.002)

    def ranks(self) -> list[int]:
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout
        return [int(word) for word in found.split()]

    def ended(self) -> int:
        """Its exit code, with whatever was left of its group ended too."""
        try:
            return self.process.wait(300)
        finally:
            self.end()

    def end(self) -> None:
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def said(self) -> str:
        return self.log.read_text(errors="replace").replace("\r", "\n")


@pytest.fixture
def start(dataset):
    """`start(run, *launcher, **flags)` starts a training; whatever still runs in the end is ended."""
    started = []

    def one(run: Path, *launcher: str, **flags: object) -> Started:
        started.append(Started(dataset, run, *launcher, **flags))
        return started[-1]

    yield one
    for training in started:
        training.end()
        training.process.wait()


def metrics(run: Path) -> list[dict]:
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [{k: v for k, v in json.loads(line).items() if not k.endswith("_per_second")} for line in lines]


def leaves(run: Path) -> dict[str, bytes]:
    """What a run leaves that no clock decides."""
    files = [run / LORA, *sorted((run / "best").iterdir()), *sorted((run / "samples").rglob("*.png"))]
    return {str(path.relative_to(run)): path.read_bytes() for path in files} | {"metrics": repr(metrics(run)).encode()}


def command_to_continue(said: str) -> str:
    return re.search(r"this continues:\n(.+)\n", said)[1]


@pytest.fixture(scope="module")
def whole(dataset, run_program, tmp_path_factory):
    """The run that is never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    done = run_program(sys.executable, "train_texture.py", *words(dataset, run), **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
def test_stopped_by_a_signal_the_run_goes_on_with_the_command_that_it_says(whole, start, run_program, tmp_path):
    # FLUSH_STEPS figures come in a block, so the first line of a step appears at the validation after step 3.
    training = start(tmp_path / "run")
    training.wait_for_steps(1)
    training.process.send_signal(signal.SIGUSR1)
    assert training.ended() == 0, training.said()
    done = int(re.search(r"stopped after (\d+) steps \(SIGUSR1\); this continues:", training.said())[1])
    assert 3 <= done < STEPS
    assert [path.name for path in (training.run / "checkpoints").iterdir()] == [f"step-{done:08d}"]
    assert not (training.run / LORA).exists()
    assert f"{done} of {STEPS}" in (training.run / "report.html").read_text("utf-8")
    again = run_program(*shlex.split(command_to_continue(training.said())), OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert leaves(training.run) == leaves(whole)
    written = [training.log, *(path for path in whole.rglob("*") if path.is_file())]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]


@pytest.mark.slow
def test_stopped_while_it_validates_the_run_makes_up_for_it(whole, start, tmp_path):
    for number, step in ((signal.SIGTERM, 0), (signal.SIGINT, 3), (signal.SIGTERM, 3)):
        training = start(tmp_path / "run")
        training.wait_for(f"samples/.step-{step:08d}.tmp")
        training.process.send_signal(number)
        assert training.ended() == 0, training.said()
        assert f"stopped after {step} steps" in training.said()
        assert not list(training.run.glob("samples/.*"))
        assert not (training.run / f"samples/step-{step:08d}").exists()
    # Torn by a full disk, say, after the figures of the checkpoint.
    with (training.run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    training = start(tmp_path / "run")
    assert training.ended() == 0, training.said()
    assert leaves(training.run) == leaves(whole)


@pytest.mark.slow
def test_stopped_before_the_first_step(start, tmp_path):
    training = start(tmp_path / "run", **{"data.cache_dir": tmp_path / "cache"})
    while not list((tmp_path / "cache").rglob("*.*")):
        assert training.process.poll() is None, training.said()
        time.sleep(0.002)
    training.process.send_signal(signal.SIGTERM)
    assert training.ended() == 0, training.said()
    assert "stopped (SIGTERM); this continues:" in training.said()
    assert "Traceback" not in training.said()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once_and_loses_nothing_written(start, tmp_path):
    endless = {"run.gradient_accumulation_steps": 100_000, "validation.num_images": 0}
    training = start(tmp_path / "run", **endless)
    training.wait_for("metrics.jsonl")
    time.sleep(1)
    training.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    training.process.send_signal(signal.SIGINT)  # the echo of the first, as torchrun sends it, is none
    time.sleep(1.5)
    assert training.process.poll() is None, training.said()
    training.process.send_signal(signal.SIGINT)
    assert training.ended() == 130, training.said()
    assert "SIGINT: stops after this step" in training.said()
    assert "stopped at once; this continues:" in training.said()
    assert [line["step"] for line in metrics(training.run)] == [0]


@pytest.mark.slow
def test_ranks_stop_together_and_one_rank_goes_on(whole, start, tmp_path):
    training = start(tmp_path / "run", *RANKS, **{"run.gradient_accumulation_steps": 1})
    training.wait_for_steps(1)
    os.kill(training.ranks()[1], signal.SIGUSR1)
    assert training.ended() == 0, training.said()
    assert "this continues:\nACCELERATE_USE_CPU=true" in training.said(), training.said()
    steps = int(re.search(r"stopped after (\d+) steps", training.said())[1])
    assert [path.name for path in (training.run / "checkpoints").iterdir()] == [f"step-{steps:08d}"]
    training = start(tmp_path / "run")  # one process, two passes: the same effective batch
    assert training.ended() == 0, training.said()
    losses = [[line["loss"] for line in metrics(run) if "loss" in line] for run in (whole, training.run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_two_ranks_is_killed(rank, whole, start, tmp_path):
    flags = {"run.gradient_accumulation_steps": 1, "run.checkpointing_steps": 1}
    training = start(tmp_path / "run", *RANKS, **flags)
    training.wait_for("checkpoints/step-00000002")
    os.kill(training.ranks()[rank], signal.SIGKILL)
    began = time.monotonic()
    assert training.ended() != 0
    assert time.monotonic() - began < 60
    # torchrun sends the other SIGTERM at the same time, which may come at any moment of its end.
    assert "another process of this run has ended or does not answer" in training.said(), training.said()
    training = start(tmp_path / "run")
    assert training.ended() == 0, training.said()
    assert "continues from" in training.said()
    losses = [[line["loss"] for line in metrics(run) if "loss" in line] for run in (whole, training.run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_a_launcher_that_dies_of_the_signal(start, tmp_path):
    training = start(tmp_path / "run", *ACCELERATE, "train_texture.py", **{"run.max_train_steps": 100000})
    training.wait_for_steps(1)
    (trainer,) = training.ranks()
    training.process.send_signal(signal.SIGTERM)
    training.process.wait(60)
    limit = time.monotonic() + 60
    while Path(f"/proc/{trainer}").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    assert "(the launcher has gone); this continues:" in training.said()
    assert "accelerate launch --config_file accelerate_config.yaml train_texture.py" in command_to_continue(
        training.said()
    )
    assert len(list((training.run / "checkpoints").iterdir())) == 1


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_line(whole, start, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or subprocess.run([*SMALL, disk]).returncode:
        pytest.skip("no right to mount a file system")
    try:
        training = start(disk / "run", **{"run.checkpointing_steps": 1})
        training.wait_for("checkpoints/step-00000002")
        fill = subprocess.run(["dd", "if=/dev/zero", f"of={disk}/fill", "bs=4k"], capture_output=True)
        assert b"No space left" in fill.stderr
        assert training.ended() == 2, training.said()
        (line,) = [line for line in training.said().splitlines() if "train_texture.py: error:" in line]
        assert "No space left on device" in line
        assert "Traceback" not in training.said()
        (disk / "fill").unlink()
        training = start(disk / "run")
        assert training.ended() == 0, training.said()
        assert leaves(training.run) == leaves(whole)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_limit_on_file_sizes_ends_the_run_in_one_line(start, tmp_path, monkeypatch):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    monkeypatch.setattr(subprocess, "Popen", limited(subprocess.Popen, hard))
    training = start(tmp_path / "run", **{"run.checkpointing_steps": 1, "validation.num_images": 0})
    assert training.ended() == 2, training.said()
    (line,) = [line for line in training.said().splitlines() if "train_texture.py: error:" in line]
    assert "File too large" in line
    assert not list(training.run.glob("checkpoints/*"))


def limited(popen, hard):
    """Popen whose children may not write files of more than 40 kB, which a checkpoint is."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))

    return lambda *arguments, **options: popen(*arguments, preexec_fn=limit, **options)
