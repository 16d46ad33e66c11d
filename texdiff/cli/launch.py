"""`texdiff train`: train_texture.py with what is easily forgotten beside it: all GPUs, or else all cores of the CPU.

One process is the training itself. Several are started here, with torch's usual variables and a port that is free; they
get the signals that come, one that fails ends the others, and its exit code is the command's.
"""

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import FrameType, ModuleType
from typing import NoReturn

from texdiff.cli.train_arguments import parse_command_line, report_error
from texdiff.errors import TRAIN_COMMAND, InputError, one_line
from texdiff.training.run.stop_signals import SIGNALS

SUMMARY = "Train on a dataset, on all GPUs of this machine or else all cores of its CPU."
HELP = f"""{SUMMARY} The settings are those of train_texture.py, below. Beside them, as accelerate's
launcher has them: --num_processes N, default: as many as there are GPUs, or one. --mixed_precision no|fp16|bf16,
default: bf16 on GPUs that have it, fp16 on older ones, no on a CPU. --config_file FILE, accelerate's own configuration,
of which mixed_precision, num_processes, gpu_ids and use_cpu count. For several machines start train_texture.py with
accelerate launch."""
PROGRAM = Path(__file__).parents[2] / "train_texture.py"  # in a checkout as in an installed wheel
PRECISIONS = ("no", "fp16", "bf16")
GRACE = 30.0  # seconds that processes get to end after one has failed


@dataclass(kw_only=True)
class Launch:
    """What is started, where a flag or accelerate's configuration says so."""

    num_processes: int | None = None
    mixed_precision: str | None = None
    gpu_ids: str | None = None
    """Numbers of GPUs, with commas between."""
    use_cpu: bool = False


def train(arguments: Sequence[str]) -> int:
    """Train with these arguments; returns the exit code: 2, after one line on stderr, where the input is at fault."""
    before, sys.argv = sys.argv, [TRAIN_COMMAND, *arguments]  # as messages begin
    try:
        return _train(arguments)
    except InputError as error:
        return report_error(error)
    except KeyboardInterrupt:  # before the training itself listens
        return 130
    finally:
        sys.argv = before


def _train(arguments: Sequence[str]) -> int:
    launch, settings = parse_launch(arguments)
    sys.argv[1:] = settings
    parse_command_line(usage=HELP)  # --help and a wrong setting are said once, and before torch is loaded
    count, is_one_of_several = _prepare(launch), int(os.environ.get("WORLD_SIZE", "1")) > 1
    if count > 1 and not is_one_of_several:
        return _run_processes(count, settings)
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        os.environ["ACCELERATE_MIXED_PRECISION"] = default_precision(_capabilities())
    program = ModuleType("train_texture")
    SourceFileLoader(program.__name__, str(PROGRAM)).exec_module(program)
    program.main()
    return 0


def parse_launch(arguments: Sequence[str]) -> tuple[Launch, list[str]]:
    """The launcher's own flags, which beat the file that `--config_file` names; and the arguments that are settings."""
    parser = _Flags(add_help=False, allow_abbrev=False)
    parser.add_argument("--config_file", type=Path)
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--mixed_precision", choices=PRECISIONS)
    flags, settings = parser.parse_known_args(list(arguments))
    launch = read_accelerate_config(flags.config_file) if flags.config_file else Launch()
    if flags.num_processes is not None:
        launch.num_processes = flags.num_processes
    if flags.mixed_precision is not None:
        launch.mixed_precision = flags.mixed_precision
    if launch.num_processes is not None and launch.num_processes < 1:
        raise InputError(f"--num_processes must be at least 1 (got {launch.num_processes})")
    return launch, settings


def read_accelerate_config(path: Path) -> Launch:
    """What `accelerate config` wrote. Raises InputError for what needs accelerate's launcher, by the key's name."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text("utf-8-sig"))
    except OSError as error:
        raise InputError(f"--config_file {path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"--config_file {path}: not a valid YAML file ({one_line(error)[:200]})") from None
    if not isinstance(given, dict):
        raise InputError(f"--config_file {path}: is no configuration of accelerate; write one with accelerate config")
    where, elsewhere = f"--config_file {path}", "; use accelerate launch train_texture.py for that, or remove it"
    if str(given.get("distributed_type", "NO")) not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        raise InputError(f"{where}: distributed_type {given['distributed_type']} is not for texdiff train{elsewhere}")
    if given.get("num_machines", 1) != 1:
        raise InputError(f"{where}: num_machines must be 1 (got {given['num_machines']}){elsewhere}")
    for key, value in given.items():
        if isinstance(value, dict) and value:  # dynamo_config, fsdp_config and the like
            raise InputError(f"{where}: {key} is not for texdiff train{elsewhere}")
    precision = given.get("mixed_precision", "no") or "no"  # YAML reads a bare no as false
    if precision not in PRECISIONS:
        raise InputError(f"{where}: mixed_precision must be one of {', '.join(PRECISIONS)} (got {precision})")
    count = given.get("num_processes")
    if count is not None and type(count) is not int:
        raise InputError(f"{where}: num_processes must be a whole number (got {count})")
    gpu_ids = str(given.get("gpu_ids") or "all").replace(" ", "")
    return Launch(
        num_processes=count,
        mixed_precision=precision,
        gpu_ids=None if gpu_ids == "all" else gpu_ids,
        use_cpu=given.get("use_cpu") is True,
    )


def default_precision(capabilities: Sequence[tuple[int, int]]) -> str:
    """Mixed precision on GPUs of these CUDA compute capabilities: from 8.0 on they multiply bf16."""
    if not capabilities:
        return "no"
    return "bf16" if min(capabilities) >= (8, 0) else "fp16"


class _Flags(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _prepare(launch: Launch) -> int:
    """The number of processes, with the environment that they and torch, which is loaded here, are to have."""
    if launch.mixed_precision is not None:
        os.environ["ACCELERATE_MIXED_PRECISION"] = launch.mixed_precision
    if launch.gpu_ids is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = launch.gpu_ids
    if launch.use_cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own_threads = "OMP_NUM_THREADS" in os.environ
    os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    gpus = 0 if _on_cpu() else _gpu_count()
    count = launch.num_processes or max(1, gpus)
    if gpus and count > gpus:
        there = "is 1 GPU" if gpus == 1 else f"are {gpus} GPUs"
        raise InputError(f"num_processes must be at most the number of GPUs (got {count}, and there {there})")
    if count > 1 and not gpus:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    if not own_threads:
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores // count))
    return count


def _on_cpu() -> bool:
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "t", "y")


def _gpu_count() -> int:
    import torch

    return torch.cuda.device_count()


def _capabilities() -> list[tuple[int, int]]:
    import torch

    if _on_cpu() or not torch.cuda.device_count():
        return []
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # else every process takes memory of the first
    return [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]


def _run_processes(count: int, settings: Sequence[str]) -> int:
    """`count` processes of one run on this machine, until the last has ended; the exit code of the first to fail."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for process in processes:
            process.send_signal(number)

    # A closed terminal that is ignored here, under nohup, is ignored by what is started, too.
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    for rank in range(count):
        environment = os.environ | {k: str(v) for k, v in (ranks | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        command = [sys.executable, "-m", "texdiff.cli", "train", *settings]
        processes.append(subprocess.Popen(command, env=environment))
    for number in received[:1]:  # those that were not there yet have missed it
        pass_on(number, None)

    failed: int | None = None
    since = 0.0
    while any(process.poll() is None for process in processes):
        codes = [process.returncode for process in processes]
        if failed is None and any(codes):
            # One that is left alone ends with 1, and may have done so by now.
            failed, since = next((code for code in codes if code not in (None, 0, 1)), 1), time.monotonic()
            pass_on(signal.SIGTERM, None)  # they may wait for the one that is gone
        elif failed is not None and time.monotonic() - since > GRACE:
            for process in processes:
                process.kill()
        time.sleep(0.05)
    codes = [process.returncode for process in processes]
    if failed in (None, 1) and (failed is None or time.monotonic() - since <= GRACE):
        # One that was killed may be gone for the others before it is for the system, and they may be quick to end.
        failed = next((code for code in codes if code < 0 and code != -signal.SIGTERM), failed)
    code = failed or next((code for code in codes if code), 0)
    return 128 - code if code < 0 else code
