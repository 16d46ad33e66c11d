"""Processes that do jobs which may crash, hang or eat memory, so that no single job ends the run.

Each worker is a process of its own with a bound on its address space. A job that passes its time limit, or takes its
process down with it, comes back as a Failure, and a fresh process takes the dead one's place.
"""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import cv2

from texdiff.errors import InputError

_SECONDS_TO_START = 300.0  # imports on a cold, busy disk; only a broken installation needs longer
_JOBS_PER_PROCESS = 500  # then a fresh one, so that what a reader leaks stays bounded


@dataclass(frozen=True)
class Failure:
    """Why a job gave no result, in one line. `lasting`: it would fail again, so there is no use in another try."""

    reason: str
    lasting: bool


@dataclass
class _Worker:
    process: SpawnProcess
    pipe: Connection
    deadline: float  # by time.monotonic()
    job: Any = None  # None while it starts
    jobs_done: int = 0


def run_jobs(
    work: Callable[[Any], Any], jobs: Iterable[Any], *, workers: int, time_limit: float, memory_limit: float
) -> Iterator[tuple[Any, Any]]:
    """Do `work(job)` for each job in `workers` processes; yield (job, result or Failure), in the order they end.

    `work` is a module's top-level function; jobs are taken from the iterable one by one, when a worker is free.
    `time_limit` in seconds per job, `memory_limit` in GiB per process (Linux only).
    """
    waiting = iter(jobs)
    job = next(waiting, None)
    pool: list[_Worker] = []
    try:
        while job is not None or pool:
            while job is not None and len(pool) < workers:
                pool.append(_start(work, memory_limit))
            now = time.monotonic()
            wait([w.pipe for w in pool], timeout=max(0.0, min(w.deadline for w in pool) - now))
            for worker in list(pool):
                try:
                    if worker.pipe.poll():
                        answer = worker.pipe.recv()
                    elif time.monotonic() >= worker.deadline:
                        answer = Failure(f"the reader took longer than {time_limit:g} s", lasting=False)
                    else:
                        continue
                except (EOFError, OSError):
                    answer = _crashed(worker)
                if worker.job is not None:
                    yield worker.job, answer
                    worker.job, worker.jobs_done = None, worker.jobs_done + 1
                elif isinstance(answer, Failure):
                    raise RuntimeError(f"a worker process could not start: {answer.reason}")
                broken = isinstance(answer, Failure) and not answer.lasting
                if job is None or broken or worker.jobs_done >= _JOBS_PER_PROCESS:
                    pool.remove(worker)
                    _end(worker)
                else:
                    worker.job, worker.deadline = job, time.monotonic() + time_limit
                    with contextlib.suppress(BrokenPipeError):  # died just now: the next look at its pipe says so
                        worker.pipe.send(job)
                    job = next(waiting, None)
    finally:
        for worker in pool:
            _end(worker)


def _start(work: Callable[[Any], Any], memory_limit: float) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, memory_limit), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours, time.monotonic() + _SECONDS_TO_START)


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


def _serve(pipe: Connection, work: Callable[[Any], Any], memory_limit: float) -> None:
    """A worker's life: say it is ready, then answer one job after another until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the workers
    cv2.setNumThreads(1)  # the workers are the parallelism
    _bound_memory(memory_limit)
    pipe.send("ready")
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer = work(job)
        except MemoryError:
            answer = Failure(f"the reader needed more than {memory_limit:g} GiB of memory", lasting=False)
        except InputError as error:
            answer = Failure(str(error), lasting=True)
        except Exception as error:  # whatever a reader throws at a broken file is that file's reason, not the run's end
            answer = Failure(" ".join(f"reader error: {type(error).__name__}: {error}".split())[:300], lasting=True)
        pipe.send(answer)


def _bound_memory(gibibytes: float) -> None:
    """Let the process grow by so much beyond what its imports have mapped; a no-op where the system can't."""
    try:
        import resource

        with open("/proc/self/statm") as statm:
            mapped = int(statm.read().split()[0]) * resource.getpagesize()
        limit = mapped + int(gibibytes * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, OSError, ValueError):
        pass
