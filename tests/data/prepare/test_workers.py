"""Workers: a job that crashes, hangs or eats memory is a Failure, and the others are done."""

import ctypes
import errno
import os
import signal
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from texdiff.data.prepare.workers import Failure, Workers
from texdiff.errors import InputError


def work(job: object) -> object:
    """Do as the job says."""
    match job:
        case "segfault":
            ctypes.string_at(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "busy":
            while True:
                pass
        case "slowed":  # as by other programs: 1.6 s, of which it has the processor for 0.2
            for end in np.linspace(0, 0.2, 20) + time.process_time():
                while time.process_time() < end:
                    pass
                time.sleep(0.08)
        case "memory":
            return len(bytearray(8 << 30))
        case "recursion":
            return work(job)
        case "input":
            raise InputError("a.obj: is broken")
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device", "a.png")
        case "error":
            raise ValueError("two\nlines")
    return job


def process_id(_: object) -> int:
    return os.getpid()


def test_each_failure_has_its_reason_and_the_rest_is_done() -> None:
    jobs = ["input", 1, "error", "recursion", "segfault", 2, "killed", "exit", "hang", "busy", "slowed", 3]
    with Workers((work,), count=2, time_limit=1.0, memory_limit=4.0) as pool:
        answers = dict(pool.run(work, iter(jobs)))
    assert set(answers) == set(jobs)
    assert [answers[job] for job in (1, 2, 3, "slowed")] == [1, 2, 3, "slowed"]
    reasons = {job: answer.reason for job, answer in answers.items() if isinstance(answer, Failure)}
    assert reasons.pop("recursion").startswith("reader error: RecursionError")
    assert reasons == {
        "input": "a.obj: is broken",
        "error": "reader error: ValueError: two lines",
        "segfault": "the reader crashed (SIGSEGV)",
        "killed": "the reader crashed (SIGKILL)",
        "exit": "the reader crashed (exit code 3)",
        "hang": "the reader stood still",
        "busy": "the reader took longer than 1 s of the processor",
    }
    lasting = {job for job, answer in answers.items() if isinstance(answer, Failure) and answer.lasting}
    assert lasting == {"input"}


def test_a_full_disk_is_no_files_fault() -> None:
    pool = Workers((work,), count=1, time_limit=60.0, memory_limit=4.0)
    with pool, pytest.raises(InputError, match=r"no space left for a\.png"):
        list(pool.run(work, [1, "disk", 2]))


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no such limit")
def test_memory_is_bounded() -> None:
    with Workers((work,), count=1, time_limit=60.0, memory_limit=1.0) as pool:
        answers = dict(pool.run(work, ["memory", 1]))
    assert answers == {"memory": Failure("the reader needed more than 1 GiB of memory", lasting=False), 1: 1}


def test_jobs_are_taken_one_by_one_and_workers_stay() -> None:
    taken = []

    def jobs() -> Iterator[int]:
        for number in range(6):
            taken.append(number)
            yield number

    with Workers((work, process_id), count=1, time_limit=60.0, memory_limit=4.0) as pool:
        for job, _ in pool.run(work, jobs()):
            assert len(taken) <= job + 3
        assert taken == list(range(6))
        assert len(set(dict(pool.run(process_id, ["a", "b", "c"])).values())) == 1
    assert pool.pool == []
