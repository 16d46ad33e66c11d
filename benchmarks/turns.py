"""Programs under the clock, one working at a time: each takes its turn while the others stand still."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.02  # the clock runs in the programs, so looking rarely does not blur it


class ProgramFailed(Exception):
    """A program stopped before its end, or did fewer steps than it should have."""


@dataclass(frozen=True)
class Program:
    """Something to measure: `command` gets the clock's arguments and returns what to run."""

    name: str
    command: Callable[[Sequence[str]], list[str]]
    turns: int
    turn_steps: int = 1
    profile: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    to_the_end: bool = True  # or killed after its last turn, with nothing saved


@dataclass(frozen=True)
class Measured:
    """What became of a program. Seconds leave out the time that it stood still; memory is in bytes."""

    name: str
    first_step: float  # from the launch to the end of the first optimiser step
    turns: list[float]  # of one step, the mean over a turn
    processor: list[float]  # the same in seconds that it had the processor, its threads added up
    total: float  # from the launch to the exit, or until it was killed
    launcher: float  # from the launch until Python ran the script
    threads: int
    peak_memory: int
    peak_gpu_memory: int | None
    profile: dict[str, float] | None  # of one step, by group


class _Running:
    def __init__(self, program: Program, work: Path) -> None:
        self.program, self.work = program, work
        self.report, self.log = work / f"{program.name}.jsonl", work / f"{program.name}.log"
        self.report.unlink(missing_ok=True)
        self.launched = time.monotonic()
        clock = ["--report", str(self.report), "--launched", str(self.launched)]
        clock += ["--turns", str(program.turns), "--turn_steps", str(program.turn_steps)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                program.command([*clock, "--profile"] if program.profile else clock),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | program.environment,
                start_new_session=True,  # a group of its own, so that a launcher's child can be ended as well
            )

    def wait(self, turn: int) -> None:
        """Until turn number `turn` is over (0: the first step); after the last one, until the program is."""
        last = turn == self.program.turns
        to_exit = last and self.program.to_the_end
        while self.process.poll() is None and (to_exit or len(self._lines()) <= turn):
            time.sleep(POLL_SECONDS)
        self.ended = time.monotonic()
        if last and not to_exit and self.process.poll() is None:
            self.end(signal.SIGKILL)
            return
        if not last and self.process.poll() is None:  # what it prepares in the background stands still as well
            os.killpg(self.process.pid, signal.SIGSTOP)
        if self.process.poll() is not None and (self.process.returncode or turn < self.program.turns):
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
            raise ProgramFailed(f"{self.program.name}: stopped with exit code {self.process.returncode}:\n{tail}")

    def go(self) -> None:
        assert self.process.stdin is not None
        try:
            os.killpg(self.process.pid, signal.SIGCONT)
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, ProcessLookupError):  # it has ended; wait() says why
            pass

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
            os.killpg(self.process.pid, signal.SIGCONT)
        self.process.communicate()  # also closes its standard input

    def measured(self) -> Measured:
        lines = self._lines()
        turns = [line for line in lines if "steps" in line]
        last = next(line for line in reversed(lines) if "peak_memory" in line)
        steps = self.program.turn_steps * self.program.turns
        profile: dict[str, float] | None = next((line["profile"] for line in lines if "profile" in line), None)
        return Measured(
            name=self.program.name,
            first_step=turns[0]["seconds"],
            turns=[line["seconds"] / self.program.turn_steps for line in turns[1:]],
            processor=[
                (line["processor"] - before["processor"]) / self.program.turn_steps for before, line in pairwise(turns)
            ],
            total=self.ended - self.launched - turns[-1]["waited"],
            launcher=last["launcher"],
            threads=last["threads"],
            peak_memory=last["peak_memory"],
            peak_gpu_memory=last.get("peak_gpu_memory"),
            profile=profile and {name: seconds / steps for name, seconds in profile.items()},
        )

    def _lines(self) -> list[dict[str, Any]]:
        text = self.report.read_text("utf-8") if self.report.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def take_turns(programs: Sequence[Program], work: Path) -> dict[str, Measured]:
    """Start the programs one after another, give each a turn until all have had theirs, and see each to its end.

    Never do two of them work at once. `work` gets their logs and reports. Raises ProgramFailed, and ends them all,
    where one of them stops early.
    """
    work.mkdir(parents=True, exist_ok=True)
    running: list[_Running] = []
    try:
        for program in programs:
            running.append(_Running(program, work))
            running[-1].wait(0)
        for turn in range(1, max(program.turns for program in programs) + 1):
            for one in running:
                if turn <= one.program.turns:
                    one.go()
                    one.wait(turn)
        return {one.program.name: one.measured() for one in running}
    finally:
        for one in running:
            one.end()
