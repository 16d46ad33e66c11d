"""Mutated inputs through every reader: each is read, or refused in one line that names it; nothing else."""

import traceback
from collections import Counter
from pathlib import Path

import fuzz_data
import fuzz_runs
import pytest
from fuzzing import Hang, attempt, write

READERS = [*fuzz_data.READERS, *fuzz_runs.READERS]
FAST, ALL = 150, 1000


@pytest.fixture(scope="module", autouse=True)
def own_state():
    """Accelerate keeps its state for the whole process; other tests start their own."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)


def test_the_seeds_themselves_are_read(tmp_path):
    for number, reader in enumerate(READERS):
        for seed, files in enumerate(reader.folders()):
            folder = tmp_path / f"{number}-{seed}"
            write(files, folder)
            reader.read(folder)


def fuzz(count: int, start: int, tmp_path: Path) -> Counter[str]:
    # Makes the seeds, which imports what the readers import: no input is blamed for the time that takes.
    others = [data for reader in READERS for folder in reader.folders() for data in folder.values()]
    others = [data for data in others if len(data) < 100_000]
    total = sum(reader.share for reader in READERS)
    outcomes: Counter[str] = Counter()
    failures = []
    for reader in READERS:
        for number in range(start, start + max(1, round(count * reader.share / total))):
            folder = tmp_path / f"{reader.name}-{number}"
            folder.mkdir()
            try:
                outcomes[attempt(reader, number, folder, others).split(":")[0]] += 1
            except (Exception, Hang):
                failures.append(f"{reader.name}, input {number}:\n{traceback.format_exc(limit=-6)}")
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:12])
    return outcomes


def test_mutated_inputs_are_read_or_refused_in_one_line(tmp_path):
    outcomes = fuzz(FAST, 0, tmp_path)
    assert outcomes["refused"] > 0.3 * FAST  # else the mutations would be harmless


@pytest.mark.slow
def test_a_thousand_mutated_inputs(tmp_path):
    outcomes = fuzz(ALL, FAST, tmp_path)
    assert outcomes.total() >= 0.98 * ALL
