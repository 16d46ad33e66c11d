"""Processes that do jobs which may crash, hang or eat memory, so that no single job ends the run.

Each worker is a process of its own with a bound on its address space. A job that passes its time limit, or takes its
process down with it, comes back as a Failure, and a fresh process takes the dead one's place. Its time is that of the
processor, so that other programs beside do not decide about a file; one that hardly gets on at all is ended as well.
"""

import contextlib
import errno
import math
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import cv2
import psutil
from tqdm import tqdm

from texdiff.errors import InputError, one_line

_SECONDS_TO_START = 300.0  # imports on a cold, busy disk; only a broken installation needs longer
_STANDS_STILL = 0.02  # share of a core: who gets less over the whole of a limit waits, and not for its turn
_JOBS_PER_PROCESS = 500  # then a fresh one, so that what a reader leaks stays bounded


@dataclass(frozen=True)
class Failure:
    """Why a job gave no result, in one line. `lasting`: the job was refused for what it is, and would be again."""

    reason: str
    lasting: bool


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    deadline: float = math.inf  # by time.monotonic(), when to look at it next, for what it does now
    begun: float = 0.0  # seconds of the processor before its job
    looked: tuple[float, float] = (0.0, 0.0)  # when it was looked at last, and the seconds of the processor then
    starting: bool = True
    job: Any = None
    jobs_done: int = 0


class Workers:
    """Up to `count` processes, started when there are jobs for them, ended with the `with` block.

    `kinds`: the functions that may be asked for, top-level ones of a module, which is imported before any clock runs.
    `time_limit` in seconds of the processor per job, `memory_limit` in GiB per process beyond what its imports take
    (Linux only).
    """

    def __init__(
        self, kinds: tuple[Callable[[Any], Any], ...], *, count: int, time_limit: float, memory_limit: float
    ) -> None:
        self.kinds = kinds
        self.count = count
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self.pool: list[_Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *exception: object) -> None:
        while self.pool:
            _end(self.pool.pop())

    def run(self, kind: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Do `kind(job)` for each job; yield (job, result or Failure), in the order in which they end.

        Jobs are taken from the iterable one by one, when a worker is free. Jobs are never None. Raises InputError where
        the disk is full.
        """
        waiting = iter(jobs)
        job = next(waiting, None)
        while job is not None or any(worker.job is not None for worker in self.pool):
            for worker in self.pool:
                if job is not None and worker.job is None and not worker.starting:
                    worker.job, worker.deadline = job, time.monotonic() + self.time_limit
                    worker.begun = _processor_seconds(worker, alone=True)
                    worker.looked = time.monotonic(), worker.begun
                    with contextlib.suppress(BrokenPipeError):  # died just now: its pipe will say so
                        worker.pipe.send((kind, job))
                    job = next(waiting, None)
            while job is not None and len(self.pool) < self.count:
                self.pool.append(self._start())
            for worker in self._with_news():
                answer = self._answer(worker)
                if isinstance(answer, InputError):
                    raise answer
                if worker.starting and not isinstance(answer, Failure):
                    worker.starting, worker.deadline = False, math.inf
                    continue
                if worker.starting or worker.job is None:
                    raise RuntimeError(f"a worker process cannot live here: {answer}")
                done = worker.job
                worker.job, worker.deadline, worker.jobs_done = None, math.inf, worker.jobs_done + 1
                broken = isinstance(answer, Failure) and not answer.lasting
                if broken or worker.jobs_done >= _JOBS_PER_PROCESS:
                    self.pool.remove(worker)
                    _end(worker)
                yield done, answer

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.kinds, self.memory_limit), daemon=True)
        with _interrupts_ignored():  # the child inherits it, from before its first line
            process.start()
        theirs.close()
        return _Worker(process, ours, time.monotonic() + _SECONDS_TO_START)

    def _with_news(self) -> list[_Worker]:
        """Workers that have answered, died or passed their time; waits until there is one."""
        while True:
            first = min(worker.deadline for worker in self.pool)
            left = None if first == math.inf else max(0.0, first - time.monotonic())
            ready = wait([worker.pipe for worker in self.pool], left)
            if news := [worker for worker in self.pool if worker.pipe in ready or self._has_had_its_time(worker)]:
                return news

    def _has_had_its_time(self, worker: _Worker) -> bool:
        now = time.monotonic()
        if worker.deadline > now:
            return False
        if worker.starting:
            return True
        used = _processor_seconds(worker)
        then, before = worker.looked
        left = self.time_limit - (used - worker.begun)
        if left <= 0 or used - before < _STANDS_STILL * (now - then):
            return True
        # What it still has would be over no sooner.
        worker.deadline, worker.looked = now + max(left, 0.1 * self.time_limit), (now, used)
        return False

    def _answer(self, worker: _Worker) -> Any:
        try:
            if worker.pipe.poll():
                return worker.pipe.recv()
        except (EOFError, OSError):
            return _crashed(worker)
        if worker.starting or _processor_seconds(worker) - worker.begun >= self.time_limit:
            return Failure(f"the reader took longer than {self.time_limit:g} s of the processor", lasting=False)
        return Failure("the reader stood still", lasting=False)


def with_bar(
    title: str, unit: str, total: int, answers: Iterator[tuple[Any, Any]], missing: int
) -> Iterator[tuple[Any, Any]]:
    """The answers, with a progress bar on stderr that shows rate and time left."""
    with tqdm(desc=title, unit=f" {unit}", total=total, initial=total - missing, file=sys.stderr) as bar:
        for answer in answers:
            bar.update()
            yield answer


def _processor_seconds(worker: _Worker, alone: bool = False) -> float:
    """Of the process, and unless it is `alone` of those that it has started; 0 where it is gone."""
    try:
        process = psutil.Process(worker.process.pid)
        others = [] if alone else process.children(recursive=True)
        times = [one.cpu_times() for one in (process, *others)]
    except psutil.Error:
        return 0.0
    return float(sum(one.user + one.system for one in times))


def _end(worker: _Worker) -> None:
    worker.pipe.close()
    worker.process.kill()
    worker.process.join()
    worker.process.close()


def _crashed(worker: _Worker) -> Failure:
    worker.process.join(timeout=5)
    code = worker.process.exitcode
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return Failure(f"the reader crashed ({signal.Signals(-code).name})", lasting=False)
    return Failure(f"the reader crashed (exit code {code})", lasting=False)


def _serve(pipe: Connection, kinds: tuple[Callable[[Any], Any], ...], memory_limit: float) -> None:
    """A worker's life: say it is ready, then answer one job after another until the pipe closes."""
    # Unpickling `kinds` has imported their modules by now.
    cv2.setNumThreads(1)  # the workers are the parallelism
    _bound_memory(memory_limit)
    pipe.send("ready")
    while True:
        try:
            work, job = pipe.recv()
        except EOFError:
            return
        try:
            answer = work(job)
        except MemoryError:
            answer = Failure(f"the reader needed more than {memory_limit:g} GiB of memory", lasting=False)
        except InputError as error:
            answer = Failure(str(error), lasting=True)
        except OSError as error:
            # A full disk is not the file's fault: were it taken for one, all that follow would be rejected too.
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            answer = (
                InputError(f"no space left for {error.filename}; make room, then run the same command again")
                if full
                else _raw(error)
            )
        except Exception as error:  # whatever a reader throws at a broken file is that file's reason, not the run's end
            answer = _raw(error)
        pipe.send(answer)


def _raw(error: Exception) -> Failure:
    return Failure(one_line(f"reader error: {type(error).__name__}: {error}")[:300], lasting=False)


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C stops the parent, which stops its workers; a worker that got it as well would only print a traceback."""
    if threading.current_thread() is not threading.main_thread():  # only there can it be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _bound_memory(gibibytes: float) -> None:
    """Let the process grow by so much beyond what its imports have mapped; a no-op where the system cannot."""
    try:
        import resource

        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
        limit = mapped + int(gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        pass
