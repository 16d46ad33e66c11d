"""Runs in storage."""

import errno
from pathlib import Path

import pytest
import torch
from flaky_storage import FlakyFileSystem
from small_run import CONFIG, a_run

from texdiff import storage
from texdiff.errors import InputError
from texdiff.training.run import Run
from texdiff.training.run.stop_signals import StopSignals

PLACE = "flaky://bucket/run"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    FlakyFileSystem.clean()
    storage._Said.failing = False
    monkeypatch.setattr(storage, "WAITS", (0.0,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))


def begun(parallel, address=PLACE):
    """A run in the middle of its training, that has said so in storage."""
    run = Run.choose(address, "auto", 1000, parallel)
    one = a_run(parallel, run.folder)
    one.state.run = one.state.log.run = run
    run.folder.mkdir(parents=True, exist_ok=True)
    run.config_file.write_text(CONFIG.to_yaml())
    run.storage.begin()
    return one, run


def steps_there() -> list[str]:
    return sorted({name.split("/")[1] for name in storage.find(PLACE) if name.startswith("checkpoints/")})


def test_a_run_continues_on_another_machine(parallel, tmp_path, monkeypatch):
    one, run = begun(parallel)
    for step in (1, 2, 3):
        one.step()
        one.state.save(step)
    assert steps_there() == ["step-00000002", "step-00000003"]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    two, again = begun(parallel)
    assert again.folder != run.folder
    assert again.resume_from == again.checkpoint_folder(3)
    assert two.state.load(again.resume_from) == 3
    assert torch.equal(two.layer.weight, one.layer.weight)
    one.step()
    with pytest.raises(InputError, match="another process has begun to write there"):
        one.state.save(4)
    assert steps_there() == ["step-00000002", "step-00000003"]
    assert run.checkpoint_folder(4).is_dir()


def test_a_broken_connection_does_not_end_a_run_and_loses_nothing(parallel, capsys):
    one, run = begun(parallel)
    one.step()
    one.state.save(1)
    FlakyFileSystem.cut()
    for step in (2, 3):
        one.step()
        one.state.save(step)
    run.send("figures")
    said = capsys.readouterr().err
    assert said.count("the connection is broken") == 1
    assert said.count("training goes on") == 1
    with pytest.raises(storage.ConnectionBroken, match=r"nothing is lost: all is in .*, from where the same command"):
        run.storage.finish()
    FlakyFileSystem.cut(0)
    assert steps_there() == ["step-00000001"]
    two, again = begun(parallel)
    assert again.resume_from == again.checkpoint_folder(3)
    two.state.load(again.resume_from)
    two.step()
    two.state.save(4)
    assert steps_there() == ["step-00000003", "step-00000004"]
    for name in storage.find(PLACE):
        assert name == ".writer" or storage.read(f"{PLACE}/{name}") == (run.folder / name).read_bytes()


def test_nor_does_a_full_disk_here_end_it_while_it_is_sent(parallel, monkeypatch, capsys):
    one, run = begun(parallel)

    def full(self, lpath, rpath, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", lpath)

    monkeypatch.setattr(FlakyFileSystem, "put_file", full)
    one.step()
    one.state.save(1)
    assert "No space left on device" in capsys.readouterr().err
    with pytest.raises(storage.ConnectionBroken, match=r"No space left on device.*nothing is lost: all is in"):
        run.storage.finish()


def test_that_another_process_has_begun_is_said_once(parallel, capsys):
    _, run = begun(parallel)
    storage.write(f"{PLACE}/.writer", b"another")
    with pytest.raises(InputError, match="another process has begun to write there"), StopSignals() as stop:  # noqa: PT012
        stop.run = run
        run.send("checkpoint")
    assert "has begun" not in capsys.readouterr().err  # as the program says what is raised
    with pytest.raises(RuntimeError), StopSignals() as stop:  # noqa: PT012
        stop.run = run
        raise RuntimeError("something else")
    assert capsys.readouterr().err.count("another process has begun to write there") == 1


def test_one_that_cannot_be_reached_does_not_begin(parallel):
    FlakyFileSystem.cut()
    with pytest.raises(storage.ConnectionBroken, match="flaky://bucket/run: the connection is broken"):
        Run.choose(PLACE, "auto", 1000, parallel)


def test_places_that_are_in_use(parallel):
    storage.write(f"{PLACE}/photo.png", b"x")
    with pytest.raises(InputError, match=r"run.output_dir: flaky://bucket/run holds other files and no run"):
        Run.choose(PLACE, "auto", 10, parallel)
    storage.write(f"{PLACE}/.writer", b"x")
    storage.write(f"{PLACE}/audit.html", b"a dataset, which has a writer as well")
    with pytest.raises(InputError, match=r"run.output_dir: flaky://bucket/run holds other files and no run"):
        Run.choose(PLACE, "auto", 10, parallel)
    assert Run.choose(PLACE, "never", 10, parallel).storage.address == f"{PLACE}-2"


def test_one_that_cannot_be_written_is_known_before_anything_is_done(parallel, monkeypatch):
    def refuse(self, path, value, *args, **kwargs):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(FlakyFileSystem, "pipe_file", refuse)
    with pytest.raises(InputError, match=r"flaky://bucket/run/.texdiff: is not open to you \(Access Denied\)"):
        Run.choose(PLACE, "auto", 10, parallel)


@pytest.mark.slow
def test_runs_and_datasets_by_their_addresses_are_those_in_folders(train, dataset, tmp_path):
    flags = ["--run.checkpointing_steps", 2, "--run.train_batch_size", 2, "--data.dataset"]
    address = f"file://{tmp_path}/there"
    assert train(*flags, dataset, "--run.output_dir", tmp_path / "here", "--run.max_train_steps", 4).returncode == 0
    first = train(
        *flags,
        f"file://{dataset}",
        "--run.output_dir",
        address,
        "--run.max_train_steps",
        2,
        XDG_CACHE_HOME=str(tmp_path / "a"),
    )
    assert (first.returncode, first.stderr.count("error")) == (0, 0), first.stderr
    done = train(
        *flags, dataset, "--run.output_dir", address, "--run.max_train_steps", 4, XDG_CACHE_HOME=str(tmp_path / "b")
    )
    assert done.returncode == 0, done.stderr
    assert f"{address}, worked on in" in done.stdout
    losses = [
        [line["loss"] for line in Run(tmp_path / place).metrics() if "loss" in line] for place in ("here", "there")
    ]
    assert losses[0] == losses[1]
    assert (tmp_path / "there/report.html").is_file()
    assert (tmp_path / "there/checkpoints/step-00000004/SHA256SUMS").is_file()
