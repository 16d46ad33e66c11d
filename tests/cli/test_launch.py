"""`texdiff train`: what it starts, and that exit codes, signals and messages are the training's own."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from texdiff.cli import main
from texdiff.cli.launch import Launch, default_precision, parse_launch, read_accelerate_config
from texdiff.errors import InputError
from texdiff.training.run import Run

ROOT = Path(__file__).parents[2]
TRAIN = [sys.executable, "-m", "texdiff.cli", "train"]


@pytest.fixture
def flags(dataset, tmp_path):
    """For runs that are stopped long before their 200 steps."""
    given = {"data.dataset": dataset, "run.output_dir": tmp_path / "run", "data.resolution": 64}
    given |= {"run.train_batch_size": 1, "run.report_to": "none", "validation.num_images": 0, "validation.every": 1}
    given |= {"run.max_train_steps": 200, "run.checkpointing_steps": 1000}
    return [str(word) for key, value in given.items() for word in (f"--{key}", value)]


def started(command, log, **environment):
    options = {"cwd": ROOT, "env": os.environ | environment, "start_new_session": True}
    with log.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)


def wait_for_steps(run, process, log):
    limit = time.monotonic() + 300
    while not any("loss" in line for line in run.metrics()):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_accelerates_configuration_counts_and_flags_beat_it(tmp_path):
    assert read_accelerate_config(ROOT / "accelerate_config.yaml") == Launch(num_processes=1, mixed_precision="no")
    file = tmp_path / "config.yaml"
    file.write_text(
        "distributed_type: MULTI_GPU\nmixed_precision: bf16\nnum_processes: 2\ngpu_ids: 0, 3\nfsdp_config: {}\n"
        "use_cpu: true\n"
    )
    given = Launch(num_processes=2, mixed_precision="bf16", gpu_ids="0,3", use_cpu=True)
    words = ["--config", "a.yaml", "--config_file", str(file), "--dry_run"]
    assert parse_launch(words) == (given, ["--config", "a.yaml", "--dry_run"])
    launch, _ = parse_launch([*words, "--mixed_precision=fp16", "--num_processes", "3"])
    assert (launch.mixed_precision, launch.num_processes) == ("fp16", 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distributed_type: FSDP", "distributed_type FSDP is not for texdiff train; use accelerate launch"),
        ("num_machines: 2", r"num_machines must be 1 \(got 2\); use accelerate launch"),
        ("dynamo_config: {dynamo_backend: INDUCTOR}", "dynamo_config is not for texdiff train"),
        ("mixed_precision: fp8", r"mixed_precision must be one of no, fp16, bf16 \(got fp8\)"),
        ("num_processes: two", r"num_processes must be a whole number \(got two\)"),
        ("- 1", "is no configuration of accelerate"),
        ("a: [", "not a valid YAML file"),
    ],
)
def test_what_needs_accelerates_own_launcher_is_refused(text, said, tmp_path):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_accelerate_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num_processes", "x"], "--num_processes: invalid int value: 'x'"),
        (["--num_processes", "0"], "--num_processes must be at least 1 (got 0)"),
        (["--mixed_precision", "fp8"], "--mixed_precision: invalid choice: 'fp8'"),
        (["--config_file", "nowhere.yaml"], "--config_file nowhere.yaml: cannot be read"),
        (["--lora.rnak", "4"], "lora.rnak"),
        ([], "data.dataset"),
    ],
)
def test_a_wrong_flag_is_one_line_before_torch_is_loaded(arguments, said, run_program):
    code = (
        f"import sys; from texdiff.cli import main\ntry: code = main({['train', *arguments]})\n"
        "except SystemExit as stop: code = stop.code\nprint(code, 'torch' in sys.modules)"
    )
    result = run_program(sys.executable, "-c", code)
    assert result.stdout == "2 False\n"
    assert result.stderr.startswith("texdiff train: error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_precision_by_what_the_gpus_can(capsys):
    assert [default_precision(gpus) for gpus in ([], [(8, 6)], [(9, 0), (8, 0)], [(7, 5)], [(9, 0), (7, 0)])] == [
        "no",
        "bf16",
        "bf16",
        "fp16",
        "fp16",
    ]
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    help = capsys.readouterr().out
    assert help.startswith("usage: texdiff train ")
    assert all(f"--{name}" in help for name in ("num_processes", "mixed_precision", "config_file", "lora.rank"))


@pytest.mark.slow
def test_one_process_uses_all_cores_and_stops_and_continues(flags, run_program, tmp_path):
    run, log = Run(tmp_path / "run"), tmp_path / "log"
    process = started([*TRAIN, *flags], log, OMP_NUM_THREADS="1")
    wait_for_steps(run, process, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert len(run.checkpoints()) == 1
    command = re.search(r"this continues:\n(.+)\n", log.read_text())[1]
    assert command == shlex.join([*TRAIN, *flags])
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    words = [*shlex.split(command), "--dry_run"]
    said = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert f"(continues from {run.checkpoints()[0]})" in said.stdout, said.stderr
    cores = len(os.sched_getaffinity(0))
    assert re.search(rf"processes +1 on \w+, mixed precision \w+(, {cores} threads?)?\n", said.stdout), said.stdout
    wrong = run_program(*words, "--lora.target_modules", "[to_w]", OMP_NUM_THREADS="1")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("texdiff train: error: lora.target_modules: to_w")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_several_processes_stop_with_one_checkpoint(name, flags, tmp_path):
    run, log = Run(tmp_path / "run"), tmp_path / "log"
    process = started([*TRAIN, "--num_processes", "2", *flags], log, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    wait_for_steps(run, process, log)
    process.send_signal(getattr(signal, name))
    assert process.wait(120) == 0, log.read_text()
    assert "processes        2 on cpu" in log.read_text()
    assert len(run.checkpoints()) == 1
    command = re.search(r"this continues:\n(.+)\n", log.read_text())[1]
    assert command == shlex.join([*TRAIN, "--num_processes", "2", *flags])
    assert "Traceback" not in log.read_text()


@pytest.mark.slow
def test_when_one_of_several_is_killed_the_others_end_and_no_traceback_is_shown(flags, tmp_path):
    run, log = Run(tmp_path / "run"), tmp_path / "log"
    process = started([*TRAIN, "--num_processes", "2", *flags], log, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    wait_for_steps(run, process, log)
    ranks = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(ranks[1]), signal.SIGKILL)
    assert process.wait(60) == 128 + signal.SIGKILL, log.read_text()
    assert "Traceback" not in log.read_text()
    assert "another process of this run has ended" in log.read_text()


@pytest.mark.slow
def test_an_installed_wheel_trains(flags, tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    source = shutil.copytree(ROOT / "texdiff", tmp_path / "source/texdiff").parent  # building writes beside it
    for name in ("pyproject.toml", "README.md", "LICENSE", "train_texture.py"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    assert {"train_texture.py", "texdiff/cli/launch.py"} <= set(zipfile.ZipFile(wheel).namelist())
    installed = tmp_path / "installed"
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", installed, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [*TRAIN, *flags, "--run.max_train_steps", "2"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "run").is_finished
