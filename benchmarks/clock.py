"""Runs a training script as it is, and takes down from outside how long its optimiser steps take.

    python -m benchmarks.clock --report FILE --turns N [--turn_steps K] [--profile] SCRIPT [ARGUMENT ...]

PyTorch tells of every optimiser step, in whichever script, so all are measured alike and none knows of it. A step lasts
from the end of one optimiser step to the end of the next. After the first step, and after each turn of K steps, the
script stands still until a line arrives on standard input: so several programs can take turns on one machine. After N
turns it runs on by itself. The report has one JSON line for the first step, one per turn, and one for the end.

With --stand_by the libraries are loaded, and nothing else is done until a line arrives on standard input; then the
script runs through its turns without standing still, and ends after the last of them.
"""

import argparse
import atexit
import json
import os
import runpy
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

# What takes seconds to load, whichever program it is.
LIBRARIES = (
    "accelerate",
    "datasets",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "peft",
    "texdiff.report",
    "texdiff.training.validation",
)


class Clock:
    """Times are seconds of the system's monotonic clock, which all processes share; memory is in bytes.

    The first line comes after `warm_up` steps. `alone` does not stand still between turns.
    """

    def __init__(
        self,
        report: Path,
        *,
        launched: float,
        turns: int,
        turn_steps: int,
        profile: bool = False,
        warm_up: int = 1,
        alone: bool = False,
    ) -> None:
        self.report, self.turns, self.turn_steps, self.profile = report, turns, turn_steps, profile
        self.warm_up, self.alone = warm_up, alone
        self.launcher = time.monotonic() - launched  # until Python ran this file
        self.since = launched
        self.steps = 0
        self.waited = 0.0
        self.optimizer: Any = None
        self.profiler: Any = None

    def watch(self) -> None:
        """Be told of every optimiser step from now on."""
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        self.hooks = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        atexit.register(self._ended)

    def _counts(self, optimizer: Any) -> bool:
        """Whether this is a step: of several optimisers the first one counts, and one that takes its step for each
        weight as soon as its gradient is there ends it with a step for all."""
        self.optimizer = self.optimizer or optimizer
        return optimizer is self.optimizer and sum(len(group["params"]) for group in optimizer.param_groups) > 1

    def _before_step(self, optimizer: Any, *_: Any) -> None:
        if self._counts(optimizer) and self.profiler:
            from torch.profiler import record_function

            from benchmarks.groups import OPTIMIZER

            self.range = record_function(OPTIMIZER)
            self.range.__enter__()

    def _after_step(self, optimizer: Any, *_: Any) -> None:
        if not self._counts(optimizer):
            return
        if self.profiler:
            self.range.__exit__(None, None, None)
        self.steps += 1
        turn, within = divmod(self.steps - self.warm_up, self.turn_steps)
        if within or turn < 0:
            return
        state = self._state()  # waits for the GPU, where there is one
        now = time.monotonic()
        self._write(steps=self.steps, seconds=now - self.since, waited=self.waited, **state)
        if self.profile and turn == 0:
            self._start_profiler()
        if turn == self.turns:
            for hook in self.hooks:
                hook.remove()
            if self.profiler:
                self._write(profile=self._stop_profiler())
            if self.alone:
                os._exit(0)
            return
        if self.alone:
            self.since = time.monotonic()
            return
        if not sys.stdin.readline():
            raise SystemExit("the benchmark that gave the turns has gone")
        self.since = time.monotonic()
        self.waited += self.since - now

    def _start_profiler(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity, profile

        on_gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *on_gpu])
        self.profiler.start()

    def _stop_profiler(self) -> dict[str, float]:
        from benchmarks.groups import seconds_by_group

        self.profiler.stop()
        return seconds_by_group(self.profiler.events())

    def _ended(self) -> None:
        self._write(**self._state())

    def _state(self) -> dict[str, Any]:
        import torch

        so_far = {"launcher": self.launcher, "processor": time.process_time()}
        return so_far | {"threads": torch.get_num_threads(), **_peak_memory()}

    def _write(self, **line: Any) -> None:
        with self.report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _peak_memory() -> dict[str, int]:
    """The highest resident memory of this process so far, and the highest that PyTorch had on the GPU."""
    import torch

    lines = Path("/proc/self/status").read_text().splitlines()
    peak = {"peak_memory": next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))}
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        peak["peak_gpu_memory"] = torch.cuda.max_memory_allocated()
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, required=True, help="file for the JSON lines")
    parser.add_argument("--launched", type=float, help="time.monotonic() when the command was given; default: now")
    parser.add_argument("--turns", type=int, required=True, help="turns after the first step")
    parser.add_argument("--turn_steps", type=int, default=1, help="optimiser steps of a turn")
    parser.add_argument("--profile", action="store_true", help="say where the time of the turns goes")
    parser.add_argument("--warm_up", type=int, default=1, help="steps before the first turn")
    parser.add_argument(
        "--stand_by", action="store_true", help="wait with the libraries loaded, then do not stand still"
    )
    parser.add_argument("script", nargs=argparse.REMAINDER, help="the script and its arguments")
    given = parser.parse_args()
    if given.stand_by:
        for name in LIBRARIES:
            import_module(name)
        if not sys.stdin.readline():
            raise SystemExit("nobody is there to say when to begin")
    launched = time.monotonic() if given.launched is None else given.launched
    clock = Clock(
        given.report,
        launched=launched,
        turns=given.turns,
        turn_steps=given.turn_steps,
        profile=given.profile,
        warm_up=given.warm_up,
        alone=given.stand_by,
    )
    clock.watch()
    sys.argv = given.script
    runpy.run_path(given.script[0], run_name="__main__")


if __name__ == "__main__":
    main()
