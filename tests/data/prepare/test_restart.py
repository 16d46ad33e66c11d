"""`prepare` goes on where it was stopped, reads again what has changed, and outlives an asset that is too much."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from texdiff.data import prepare
from texdiff.data.prepare import prepare_dataset
from texdiff.data.prepare.workers import Failure, Workers


def sources_of(dataset: Path) -> dict[str, str | None]:
    """Source -> why it was set aside, None where it was kept."""
    rows = [json.loads(line) for line in (dataset / "audit.jsonl").read_text().splitlines()]
    return {row["source"]: row["reason"] for row in rows}


def stop(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stopped(tmp_path: Path, write_mesh: Callable, draw: Callable, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two meshes whose run into "out" was stopped just before the dataset was put in place."""
    for name, seed in (("a.obj", 1), ("b.glb", 2)):
        write_mesh(tmp_path / "in" / name, draw(seed))

    with monkeypatch.context() as patch:
        patch.setattr(prepare, "put_in_place", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset([str(tmp_path / "in")], tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    return tmp_path


def count_jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs done from now on, in a list that grows."""
    done: list[str] = []
    run = Workers.run

    def counted(self: Workers, kind: Callable, jobs: list) -> object:
        done.extend([kind.__name__] * len(jobs))
        return run(self, kind, jobs)

    monkeypatch.setattr(Workers, "run", counted)
    return done


def test_nothing_is_done_twice(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = count_jobs(monkeypatch)
    prepare_dataset([str(stopped / "in")], stopped / "out", workers=1)
    assert done == []
    assert sources_of(stopped / "out") == {"a.obj": None, "b.glb": None}
    assert not (stopped / "out.partial").exists()


def test_a_changed_picture_is_read_again(
    stopped: Path, write_mesh: Callable, draw: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = count_jobs(monkeypatch)
    mesh = (stopped / "in" / "a.obj").stat()
    write_mesh(stopped / "in" / "a.obj", draw(3))
    os.utime(stopped / "in" / "a.obj", ns=(mesh.st_atime_ns, mesh.st_mtime_ns))  # only the picture beside it is new
    prepare_dataset([str(stopped / "in")], stopped / "out", workers=1)
    assert done == ["read", "build"]


def test_another_resolution_reads_nothing_again(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = count_jobs(monkeypatch)
    prepare_dataset([str(stopped / "in")], stopped / "out", workers=1, resolution=128)
    assert done == ["build", "build"]


def test_an_output_within_the_source_is_no_source(
    tmp_path: Path, write_mesh: Callable, draw: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mesh(tmp_path / "a.obj", draw(1))
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "put_in_place", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset([str(tmp_path)], tmp_path / "out", workers=1)
    done = count_jobs(monkeypatch)
    for _ in range(2):
        prepare_dataset([str(tmp_path)], tmp_path / "out", workers=1)
        assert sources_of(tmp_path / "out") == {"a.obj": None}
    assert done == ["read", "build"]  # of the last run: the one before went on with what was stopped


@pytest.mark.slow
def test_an_asset_that_takes_too_long_costs_only_itself(tmp_path: Path, write_mesh: Callable, draw: Callable) -> None:
    write_mesh(tmp_path / "in" / "a.glb", draw(1))
    lines = [f"v {i} {i % 7} 0\nvt 0.{i % 9} 0.{i % 7}" for i in range(400_000)]
    lines += [f"f {i}/{i} {i + 1}/{i + 1} {i + 2}/{i + 2}" for i in range(1, 399_998)]
    (tmp_path / "in" / "slow.obj").write_text("\n".join(lines))
    prepare_dataset([str(tmp_path / "in")], tmp_path / "out", workers=1, time_limit=0.5)
    assert sources_of(tmp_path / "out") == {
        "a.glb": None,
        "slow.obj": "the reader took longer than 0.5 s of the processor",
    }


@pytest.mark.parametrize("station", ["read", "build"])
def test_what_failed_unforeseen_is_tried_again(
    station: str, tmp_path: Path, write_mesh: Callable, draw: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash, a limit that has been raised since, or a full disk."""
    write_mesh(tmp_path / "in" / "a.glb", draw(1))
    write_mesh(tmp_path / "in" / "b.glb", draw(2))
    run = Workers.run

    def crashing(self: Workers, kind: Callable, jobs: list) -> Iterator[tuple]:
        for number, (job, answer) in enumerate(run(self, kind, jobs)):
            crashed = number == 0 and kind.__name__ == station
            yield job, Failure("the reader crashed (SIGSEGV)", lasting=False) if crashed else answer

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "run", crashing)
        patch.setattr(prepare, "put_in_place", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset([str(tmp_path / "in")], tmp_path / "out", workers=1)
    assert "the reader crashed (SIGSEGV)" in sources_of(tmp_path / "out.partial" / "dataset").values()
    prepare_dataset([str(tmp_path / "in")], tmp_path / "out", workers=1)
    assert sources_of(tmp_path / "out") == {"a.glb": None, "b.glb": None}


@pytest.mark.slow
def test_an_asset_that_takes_too_much_memory_costs_only_itself(
    tmp_path: Path, write_mesh: Callable, draw: Callable
) -> None:
    write_mesh(tmp_path / "in" / "a.obj", draw(1))
    write_mesh(tmp_path / "in" / "big.obj", np.zeros((9000, 9000, 3), np.uint8))
    prepare_dataset([str(tmp_path / "in")], tmp_path / "out", workers=1, memory_limit=0.2)
    reasons = sources_of(tmp_path / "out")
    assert reasons.pop("a.obj") is None
    assert "memory" in str(reasons.pop("big.obj"))
    assert reasons == {}
